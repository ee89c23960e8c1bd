"""What only a cluster shows: scaling under load, and rollouts without a failed request.

    python -m tests.cluster.check --overlay k8s/overlays/kind \\
        --next-gateway clothing-gateway:next --next-model clothing-model:next

runs against whatever cluster kubectl's context names. Its nodes must have, or be able to pull, the
overlay's images and the two `next` ones: a gateway of any other build, and a model with a higher
version. The overlay must not scale by itself. The requests come from a pod in the cluster, since a
port-forward would end with the pod it leads to. Further options name another deployment of these
two tiers: --help lists them.
"""

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutorial import TutorialError, kubernetes, services
from tutorial.processes import wait_until

PICTURE = services.ROOT / "starter/samples/t-shirt.jpg"
LOAD = Path(__file__).with_name("load.py")
REQUESTS = re.compile(r'^:tensorflow:serving:request_count\{.*status="OK".*\} (\S+)$', re.MULTILINE)


@dataclass
class Check:
    """The steps, in the order in which `run` takes them.

    Each raises TutorialError if the cluster does not do what it should; the message says what was
    seen.
    """

    overlay: str
    context: str | None  # of kubectl's configuration
    next_images: dict[str, str]  # of the gateway and of the model
    window: float = 20.0  # seconds over which shares are measured
    patience: float = 300.0  # seconds for a rollout, and for a share to come about
    namespace: str = "clothing"
    gateway: str = "gateway"  # the names of the two Deployments
    model: str = "model"
    address: str = "gateway:9696"  # of the gateway, in the cluster
    picture: Path = PICTURE
    label: str = "t-shirt"  # the right answer
    model_name: str = ""  # the contract's by default

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return kubectl's output; TutorialError with its own words where it fails."""
        context = ["--context", self.context] if self.context else []
        command = [kubernetes.kubectl(), *context, "--namespace", self.namespace, *arguments]
        result = subprocess.run(command, input=stdin, capture_output=True, text=True)
        if result.returncode:
            raise TutorialError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def run(self) -> None:
        """All of it; the load and its failures are looked at after every step."""
        self.kubectl("apply", "--kustomize", self.overlay)
        for tier in ("model", "gateway"):
            self.settle(tier)
        report(f"{self.overlay} applied, both tiers ready")
        with self.load():
            self.while_loaded("model scaled from 1 to 3", lambda: self.scale("model", 3))
            self.while_loaded("each of three models has its share", self.shares)
            before = self.served_version()
            self.while_loaded("new model rolled out", lambda: self.roll("model"))
            after = self.served_version()
            if after <= before:
                raise TutorialError(f"the new model's version is {after}, the old one's {before}")
            self.while_loaded("new gateway rolled out", lambda: self.roll("gateway"))
            self.while_loaded("five gateways", lambda: self.scale("gateway", 5))
            undo = ("rollout", "undo", self.deployment("model"))
            self.while_loaded("model rolled back", lambda: self.replace("model", *undo))
            if self.served_version() != before:
                raise TutorialError(f"rolled back to {self.served_version()} instead of {before}")

    def deployment(self, tier: str) -> str:
        """What kubectl calls the Deployment of a tier, "gateway" or "model"."""
        return f"deployment/{getattr(self, tier)}"

    def scale(self, tier: str, replicas: int) -> None:
        """Scale to `replicas` pods, and wait until all are ready."""
        self.kubectl("scale", self.deployment(tier), f"--replicas={replicas}")
        self.settle(tier)
        self.wait_for(lambda: len(self.pods(tier)) == replicas, f"{replicas} pods of the {tier}")

    def roll(self, tier: str) -> None:
        """Roll out the next image."""
        self.replace(tier, "set", "image", self.deployment(tier), f"*={self.next_images[tier]}")

    def replace(self, tier: str, *command: str) -> None:
        """Run a command that replaces a tier's pods; wait until the last old one has ended."""
        self.kubectl(*command)
        self.settle(tier)
        self.wait_for(
            lambda: not self.pods(tier, ending=True), f"the old pods of the {tier} to end"
        )

    def settle(self, tier: str) -> None:
        """Wait for a rollout's end."""
        timeout = f"--timeout={self.patience:g}s"
        self.kubectl("rollout", "status", self.deployment(tier), timeout)

    def wait_for(self, check: Callable[[], bool], what: str) -> None:
        """Return as soon as `check()` is true."""
        wait_until(check, timeout=self.patience, interval=min(1.0, self.window), what=what)

    def pods(self, tier: str, *, ending: bool = False) -> list[str]:
        """A tier's pods, oldest first: those that stay, or those that are about to end."""
        deployment = json.loads(self.kubectl("get", self.deployment(tier), "--output", "json"))
        labels = deployment["spec"]["selector"]["matchLabels"]
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        pods = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))
        found = [pod["metadata"] for pod in pods["items"]]
        found.sort(key=lambda pod: pod["creationTimestamp"])
        return [pod["name"] for pod in found if ("deletionTimestamp" in pod) == ending]

    def ask_model(self, pod: str, path: str) -> str:
        """What a model pod's REST port answers, through the cluster's own API."""
        return self.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{self.namespace}/pods/{pod}:8501/proxy{path}"
        )

    def shares(self) -> None:
        """Wait until, within a window, each model pod gets at least half of its fair share."""
        deadline = time.monotonic() + self.patience
        while True:
            before = self.predictions()
            time.sleep(self.window)
            seen = {pod: count - before.get(pod, 0) for pod, count in self.predictions().items()}
            total = sum(seen.values())
            if total > 0 and min(seen.values()) >= total / len(seen) / 2:
                break
            if time.monotonic() > deadline:
                raise TutorialError(f"each model has no share of the requests: {seen}")
        counts = [round(count) for count in seen.values()]
        report(f"requests in {self.window:g} s, by pod in order of birth: {counts}")
        report(f"share of the last pod: {counts[-1] / total:.0%} (fair: {1 / len(counts):.0%})")

    def predictions(self) -> dict[str, float]:
        """Model pod to TensorFlow Serving's count of its successful requests."""
        path = "/monitoring/prometheus/metrics"
        return {
            pod: sum(map(float, REQUESTS.findall(self.ask_model(pod, path))))
            for pod in self.pods("model")
        }

    def served_version(self) -> int:
        """The model version of which all model pods say that they serve it."""
        name = self.model_name or json.loads(kubernetes.CONTRACT.read_text())["model_name"]
        path = f"/v1/models/{name}/metadata"
        answers = [json.loads(self.ask_model(pod, path)) for pod in self.pods("model")]
        versions = {int(answer["model_spec"]["version"]) for answer in answers}
        if len(versions) != 1:
            raise TutorialError(f"the model pods serve the versions {sorted(versions)}")
        return versions.pop()

    @contextmanager
    def load(self) -> Iterator[None]:
        """A pod that asks steadily, for as long as the block lasts."""
        path = "jsonpath={.spec.template.spec.containers[0].image}"
        image = self.kubectl("get", self.deployment("gateway"), "--output", path)
        pod = load_pod(image, self.address, self.label)
        files = [f"--from-file=load.py={LOAD}", f"--from-file=picture={self.picture}"]
        self.remove_load()
        try:
            self.kubectl("create", "configmap", "load", *files)
            self.kubectl("apply", "--filename", "-", stdin=json.dumps(pod))
            timeout = f"--timeout={self.patience:g}s"
            self.kubectl("wait", "pod/load", "--for=condition=Ready", timeout)
            yield
        finally:
            self.remove_load()

    def remove_load(self) -> None:
        """Leave nothing behind."""
        self.kubectl("delete", "pod/load", "configmap/load", "--ignore-not-found", "--now")

    def while_loaded(self, what: str, step: Callable[[], None]) -> None:
        """Take a step; TutorialError where a request failed meanwhile, or none was made."""
        before = self.counted()
        step()
        self.wait_for(
            lambda: self.counted()["answered"] > before["answered"], "an answer to the load"
        )
        after = self.counted()
        answered, failed = (after[key] - before[key] for key in ("answered", "failed"))
        if failed:
            total = answered + failed
            raise TutorialError(f"{what}: {failed} of {total} requests failed: {after['failure']}")
        took = p99(Counter(after["took"]) - Counter(before["took"]))
        report(f"{what}: {answered} requests meanwhile, none failed, 99% within {took} ms")

    def counted(self) -> dict[str, Any]:
        """The load's last line."""
        line = self.kubectl("logs", "load", "--tail=1")
        return json.loads(line) if line.strip() else {"answered": 0, "failed": 0, "took": {}}

    def explain(self) -> None:
        """Show what a person would look at next."""
        for arguments in (
            ["get", "pods", "--output", "wide"],
            ["get", "events", "--sort-by=.lastTimestamp"],
            ["logs", self.deployment("gateway"), "--tail=20"],
            ["logs", self.deployment("model"), "--tail=20"],
        ):
            print(f"\n$ kubectl {' '.join(arguments)}", file=sys.stderr)
            try:
                print("\n".join(self.kubectl(*arguments).splitlines()[-40:]), file=sys.stderr)
            except TutorialError as error:
                print(error, file=sys.stderr)


def load_pod(image: str, address: str, label: str) -> dict[str, Any]:
    """Return the manifest of the load's pod, with the gateway's image."""
    pod = yaml.safe_load(Path(__file__).with_name("load.yaml").read_text())
    [container] = pod["spec"]["containers"]
    container["image"] = image
    container["command"] += [address, "/load/picture", label]
    return pod


def p99(took: Counter[str]) -> int:
    """Return the milliseconds within which 99% of the answers came; `took` counts them."""
    milliseconds = sorted(int(key) for key in took.elements())
    return milliseconds[math.ceil(0.99 * len(milliseconds)) - 1]


def report(line: str) -> None:
    """Print what was checked."""
    print(f"  {line}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """Exit with 1, and with what was seen, where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overlay", default="k8s/overlays/kind")
    parser.add_argument("--context", help="of kubectl's configuration; the current one by default")
    parser.add_argument("--next-gateway", required=True, help="an image to roll out")
    parser.add_argument("--next-model", required=True, help="an image with a higher version")
    parser.add_argument("--window", type=float, default=Check.window, help="seconds")
    parser.add_argument("--patience", type=float, default=Check.patience, help="seconds")
    parser.add_argument("--namespace", default=Check.namespace)
    parser.add_argument("--gateway", default=Check.gateway, help="name of its Deployment")
    parser.add_argument("--model", default=Check.model, help="name of its Deployment")
    parser.add_argument("--address", default=Check.address, help="of the gateway, in the cluster")
    parser.add_argument("--picture", type=Path, default=Check.picture)
    parser.add_argument("--label", default=Check.label, help="the right answer")
    parser.add_argument("--model-name", default="", help="the contract's by default")
    options = vars(parser.parse_args(argv))
    images = {tier: options.pop(f"next_{tier}") for tier in ("gateway", "model")}
    check = Check(next_images=images, **options)
    try:
        check.run()
    except TutorialError as error:
        check.explain()
        sys.exit(f"cluster check: {error}")


if __name__ == "__main__":
    main()
