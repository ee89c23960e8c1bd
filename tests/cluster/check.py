"""What only a cluster shows: scaling under load, and rollouts without a failed request.

    python -m tests.cluster.check --overlay k8s/overlays/kind \\
        --next-gateway clothing-gateway:next --next-model clothing-model:next

runs against whatever cluster kubectl's context names. Its nodes must have, or be able to pull, the
overlay's images and the two `next` ones: a gateway of any other build, and a model with a higher
version. The overlay must not scale by itself. The requests come from a pod in the cluster, since a
port-forward would end with the pod it leads to.
"""

import argparse
import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutorial import kubernetes, services

NAMESPACE = "clothing"
PICTURE = services.ROOT / "starter/samples/t-shirt.jpg"
LABEL = "t-shirt"
LOAD = Path(__file__).with_name("load.py")
REQUESTS = re.compile(r'^:tensorflow:serving:request_count\{.*status="OK".*\} (\S+)$', re.MULTILINE)


class CheckError(Exception):
    """The cluster does not do what it should; the message says what was seen."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl, for one context and the project's namespace."""

    command: str
    context: str | None = None

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        """Its output; CheckError with its own words where it fails."""
        context = ["--context", self.context] if self.context else []
        result = subprocess.run(
            [self.command, *context, "--namespace", NAMESPACE, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            raise CheckError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout


@dataclass
class Check:
    """The steps, in the order in which `run` takes them; each raises CheckError."""

    kubectl: Kubectl
    overlay: str
    next_images: dict[str, str]  # of the gateway and of the model
    window: float = 20.0  # seconds over which shares are measured
    patience: float = 300.0  # seconds for a rollout, and for a share to come about

    def run(self) -> None:
        """All of it; the load and its failures are looked at after every step."""
        self.deploy()
        with self.load():
            self.predict()
            self.while_loaded("model scaled from 1 to 3", lambda: self.scale("model", 3))
            self.while_loaded("each of three models has its share", self.shares)
            before = self.served_version()
            self.while_loaded("new model rolled out", lambda: self.roll("model"))
            after = self.served_version()
            if after <= before:
                raise CheckError(f"the new model's version is {after}, the old one's {before}")
            self.while_loaded("new gateway rolled out", lambda: self.roll("gateway"))
            self.while_loaded("five gateways", lambda: self.scale("gateway", 5))
            self.while_loaded("model rolled back", lambda: self.undo("model"))
            if self.served_version() != before:
                raise CheckError(f"rolled back to {self.served_version()} instead of {before}")

    def deploy(self) -> None:
        """Apply the overlay, and wait until both tiers are ready."""
        self.kubectl("apply", "--kustomize", self.overlay)
        for tier in ("model", "gateway"):
            self.settle(tier)
        report(f"{self.overlay} applied, both tiers ready")

    def predict(self) -> None:
        """One answer through the Service."""
        picture = f"/load/{PICTURE.name}"
        command = ["python", "/load/load.py", "gateway:9696", "--picture", picture]
        scores = json.loads(self.kubectl("exec", "load", "--", *command))
        best = max(scores, key=scores.get)
        if best != LABEL:
            raise CheckError(f"the {LABEL} is taken for {best}")
        report(f"through the Service: {best} {scores[best]:.2f}")

    def scale(self, tier: str, replicas: int) -> None:
        """So many pods, all of them ready."""
        self.kubectl("scale", f"deployment/{tier}", f"--replicas={replicas}")
        self.settle(tier)
        self.wait(lambda: len(self.pods(tier)) == replicas, f"{replicas} pods of the {tier}")

    def shares(self) -> None:
        """Of the requests in a window, each model pod gets at least half of its fair share."""
        seen: dict[str, float] = {}

        def fair() -> bool:
            nonlocal seen
            seen = self.requests_in_window()
            total = sum(seen.values())
            return total > 0 and min(seen.values()) >= total / len(seen) / 2

        self.wait(fair, lambda: f"a share of the requests for each model: {seen}")
        report(f"requests in {self.window:g} s, by pod in order of birth: {list(seen.values())}")

    def roll(self, tier: str) -> None:
        """The next image, pod by pod, until the last old one has ended."""
        self.kubectl("set", "image", f"deployment/{tier}", f"{tier}={self.next_images[tier]}")
        self.settle(tier)
        self.wait(lambda: not self.pods(tier, ending=True), f"the old pods of the {tier} to end")

    def undo(self, tier: str) -> None:
        """Back to what was before."""
        self.kubectl("rollout", "undo", f"deployment/{tier}")
        self.settle(tier)
        self.wait(lambda: not self.pods(tier, ending=True), f"the old pods of the {tier} to end")

    def settle(self, tier: str) -> None:
        """Wait for a rollout's end."""
        timeout = f"--timeout={self.patience:g}s"
        self.kubectl("rollout", "status", f"deployment/{tier}", timeout)

    def wait(self, check: Callable[[], bool], what: str | Callable[[], str]) -> None:
        """Return as soon as `check()` is true; CheckError when patience ends."""
        deadline = time.monotonic() + self.patience
        while not check():
            if time.monotonic() > deadline:
                raise CheckError(f"waited in vain for {what() if callable(what) else what}")
            time.sleep(min(1.0, self.window))

    def pods(self, tier: str, *, ending: bool = False) -> list[dict[str, Any]]:
        """A tier's pods, oldest first: those that stay, or those that are about to end."""
        selector = f"app.kubernetes.io/name={tier}"
        pods = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))
        chosen = [p for p in pods["items"] if ("deletionTimestamp" in p["metadata"]) == ending]
        return sorted(chosen, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def ask_model(self, pod: str, path: str) -> str:
        """What a model pod's REST port answers, through the cluster's own API."""
        return self.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:8501/proxy{path}"
        )

    def requests_in_window(self) -> dict[str, float]:
        """Model pod to the predictions it has made within the window, by its own count."""
        names = [pod["metadata"]["name"] for pod in self.pods("model")]
        before = {name: self.predictions(name) for name in names}
        time.sleep(self.window)
        return {name: self.predictions(name) - before[name] for name in names}

    def predictions(self, pod: str) -> float:
        """TensorFlow Serving's count of successful requests."""
        text = self.ask_model(pod, "/monitoring/prometheus/metrics")
        return sum(float(number) for number in REQUESTS.findall(text))

    def served_version(self) -> int:
        """The model version of which all model pods say that they serve it."""
        name = json.loads(kubernetes.CONTRACT.read_text())["model_name"]
        versions = {
            int(
                json.loads(self.ask_model(pod["metadata"]["name"], f"/v1/models/{name}/metadata"))[
                    "model_spec"
                ]["version"]
            )
            for pod in self.pods("model")
        }
        if len(versions) != 1:
            raise CheckError(f"the model pods serve the versions {sorted(versions)}")
        return versions.pop()

    @contextmanager
    def load(self):
        """A pod that asks steadily, for as long as the block lasts."""
        deployment = json.loads(self.kubectl("get", "deployment", "gateway", "--output", "json"))
        spec = deployment["spec"]["template"]["spec"]
        self.remove_load()
        self.kubectl("apply", "--filename", "-", stdin=json.dumps(load_objects(spec)))
        self.kubectl("wait", "pod/load", "--for=condition=Ready", f"--timeout={self.patience:g}s")
        try:
            yield
        finally:
            self.remove_load()

    def remove_load(self) -> None:
        """Leave nothing behind."""
        self.kubectl("delete", "pod/load", "configmap/load", "--ignore-not-found", "--now")

    def while_loaded(self, what: str, step: Callable[[], None]) -> None:
        """Take a step; CheckError where a request failed meanwhile, or none was made."""
        before = self.counted()
        step()
        self.wait(lambda: self.counted()["answered"] > before["answered"], "an answer to the load")
        after = self.counted()
        answered, failed = (after[key] - before[key] for key in ("answered", "failed"))
        if failed:
            total = answered + failed
            raise CheckError(f"{what}: {failed} of {total} requests failed: {after['failure']}")
        report(f"{what}: {answered} requests meanwhile, none failed")

    def counted(self) -> dict[str, Any]:
        """The load's last line."""
        self.wait(
            lambda: bool(self.kubectl("logs", "load", "--tail=1").strip()), "the load's count"
        )
        return json.loads(self.kubectl("logs", "load", "--tail=1"))


def load_objects(gateway: dict[str, Any]) -> dict[str, Any]:
    """The load's pod, which runs as a gateway does, and its files."""
    files = {"load.py": LOAD, PICTURE.name: PICTURE}
    container = gateway["containers"][0]
    command = ["python", "/load/load.py", "gateway:9696"]
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "load"},
                "binaryData": {
                    name: base64.b64encode(path.read_bytes()).decode()
                    for name, path in files.items()
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "load", "labels": {"app.kubernetes.io/name": "load"}},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": gateway["securityContext"],
                    "containers": [
                        {
                            "name": "load",
                            "image": container["image"],
                            "command": [*command, "--picture", f"/load/{PICTURE.name}"],
                            "args": ["--expect", LABEL],
                            "resources": {"limits": {"cpu": "500m", "memory": "128Mi"}},
                            "securityContext": container["securityContext"],
                            "volumeMounts": [{"name": "load", "mountPath": "/load"}],
                        }
                    ],
                    "volumes": [{"name": "load", "configMap": {"name": "load"}}],
                },
            },
        ],
    }


def report(line: str) -> None:
    """Say what has been seen to work."""
    print(f"  {line}", flush=True)


def explain(kubectl: Kubectl) -> None:
    """What a person would look at next."""
    for arguments in (
        ["get", "pods", "--output", "wide"],
        ["get", "events", "--sort-by=.lastTimestamp"],
        ["logs", "--selector", "app.kubernetes.io/name in (gateway, model)", "--tail=20"],
    ):
        print(f"\n$ kubectl {' '.join(arguments)}", file=sys.stderr)
        try:
            print("\n".join(kubectl(*arguments).splitlines()[-40:]), file=sys.stderr)
        except CheckError as error:
            print(error, file=sys.stderr)


def main(argv: list[str] | None = None) -> None:
    """Exit with 1, and with what was seen, where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--overlay", default="k8s/overlays/kind")
    parser.add_argument("--context", help="of kubectl's configuration; the current one by default")
    parser.add_argument("--next-gateway", required=True, help="an image to roll out")
    parser.add_argument("--next-model", required=True, help="an image with a higher version")
    parser.add_argument("--window", type=float, default=Check.window, help="seconds")
    parser.add_argument("--patience", type=float, default=Check.patience, help="seconds")
    args = parser.parse_args(argv)
    command = kubernetes.kubectl()
    if not command:
        sys.exit("cluster check: there is no kubectl")
    kubectl = Kubectl(command, args.context)
    images = {"gateway": args.next_gateway, "model": args.next_model}
    try:
        Check(kubectl, args.overlay, images, args.window, args.patience).run()
    except CheckError as error:
        explain(kubectl)
        sys.exit(f"cluster check: {error}")


if __name__ == "__main__":
    main()
