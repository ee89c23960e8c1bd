"""What only a cluster shows: scaling under load, and rollouts without a failed request.

tests/cluster/kind.py makes the cluster and the images. The requests come from a pod in the cluster,
since a port-forward would end with the pod it leads to.
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tutorial import TutorialError, kubernetes, services

OVERLAY = kubernetes.K8S / "overlays/kind"
PICTURE = services.ROOT / "starter/samples/t-shirt.jpg"
LOAD_FILES = (Path(__file__).with_name("load.py"), PICTURE)
REQUESTS = re.compile(r'^:tensorflow:serving:request_count\{.*status="OK".*\} (\S+)$', re.MULTILINE)


@dataclass
class Check:
    """The steps, in the order in which `run` takes them; each raises TutorialError."""

    context: str  # of kubectl's configuration
    next_images: dict[str, str]  # of the gateway and of the model, which has a higher version
    window: float = 20.0  # seconds over which shares are measured
    patience: float = 300.0  # seconds for a rollout, and for a share to come about

    def command(self, *arguments: str) -> list[str]:
        """Return a command of kubectl for this cluster."""
        return [
            kubernetes.kubectl(),
            f"--context={self.context}",
            "--namespace=clothing",
            *arguments,
        ]

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Return kubectl's output; TutorialError with its own words where it fails."""
        command = self.command(*arguments)
        result = subprocess.run(command, input=stdin, capture_output=True, text=True)
        if result.returncode:
            raise TutorialError(f"kubectl {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def run(self) -> None:
        """All of it; the load and its failures are looked at after every step."""
        self.kubectl("apply", "--kustomize", str(OVERLAY))
        for tier in ("model", "gateway"):
            self.settle(tier)
        report("both tiers ready")
        with self.load():
            self.while_loaded("model scaled from 1 to 3", lambda: self.scale("model", 3))
            self.while_loaded(
                "each of three models has its share",
                lambda: self.wait_for(self.has_shares, "each model to get its share"),
            )
            before = self.served_version()
            self.while_loaded("new model rolled out", lambda: self.roll("model"))
            after = self.served_version()
            if after <= before:
                raise TutorialError(f"the new model's version is {after}, the old one's {before}")
            self.while_loaded("new gateway rolled out", lambda: self.roll("gateway"))
            self.while_loaded("five gateways", lambda: self.scale("gateway", 5))
            undo = ("rollout", "undo", "deployment/model")
            self.while_loaded("model rolled back", lambda: self.replace("model", *undo))
            if self.served_version() != before:
                raise TutorialError(f"rolled back to {self.served_version()} instead of {before}")

    def scale(self, tier: str, replicas: int) -> None:
        """Scale to `replicas` pods, and wait until all are ready."""
        self.kubectl("scale", f"deployment/{tier}", f"--replicas={replicas}")
        self.settle(tier)
        self.wait_for(lambda: len(self.pods(tier)) == replicas, f"{replicas} pods of the {tier}")

    def roll(self, tier: str) -> None:
        """Roll out the next image."""
        setting = f"{tier}={self.next_images[tier]}"
        self.replace(tier, "set", "image", f"deployment/{tier}", setting)

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
        self.kubectl("rollout", "status", f"deployment/{tier}", timeout)

    def wait_for(self, check: Callable[[], bool], what: str) -> None:
        """Return as soon as `check()` is true; TutorialError when patience ends."""
        deadline = time.monotonic() + self.patience
        while not check():
            if time.monotonic() > deadline:
                raise TutorialError(f"waited too long for {what}")
            time.sleep(min(1.0, self.window))

    def pods(self, tier: str, *, ending: bool = False) -> list[str]:
        """A tier's pods, oldest first: those that stay, or those that are about to end."""
        selector = f"app.kubernetes.io/name={tier}"
        pods = json.loads(self.kubectl("get", "pods", "--selector", selector, "--output", "json"))
        found = [pod["metadata"] for pod in pods["items"]]
        found.sort(key=lambda pod: pod["creationTimestamp"])
        return [pod["name"] for pod in found if ("deletionTimestamp" in pod) == ending]

    def ask_models(self, path: str) -> dict[str, str]:
        """Model pod to what its REST port answers, through the cluster's own API."""
        proxy = "/api/v1/namespaces/clothing/pods/{}:8501/proxy{}"
        return {
            pod: self.kubectl("get", "--raw", proxy.format(pod, path)) for pod in self.pods("model")
        }

    def predictions(self) -> dict[str, float]:
        """Model pod to TensorFlow Serving's count of its successful requests."""
        answers = self.ask_models("/monitoring/prometheus/metrics")
        return {pod: sum(map(float, REQUESTS.findall(text))) for pod, text in answers.items()}

    def has_shares(self) -> bool:
        """Return whether, within a window, each model pod gets at least half of its fair share."""
        before = self.predictions()
        time.sleep(self.window)
        seen = [count - before.get(pod, 0) for pod, count in self.predictions().items()]
        report(f"requests in {self.window:g} s, by pod in order of birth: {seen}")
        return min(seen) >= sum(seen) / len(seen) / 2 > 0

    def served_version(self) -> int:
        """The model version of which all model pods say that they serve it."""
        name = json.loads(kubernetes.CONTRACT.read_text())["model_name"]
        answers = self.ask_models(f"/v1/models/{name}/metadata").values()
        versions = {int(json.loads(answer)["model_spec"]["version"]) for answer in answers}
        if len(versions) != 1:
            raise TutorialError(f"the model pods serve the versions {sorted(versions)}")
        return versions.pop()

    @contextmanager
    def load(self) -> Iterator[None]:
        """A pod that asks steadily, for as long as the block lasts."""
        path = "jsonpath={.spec.template.spec.containers[0].image}"
        pod = load_pod(self.kubectl("get", "deployment", "gateway", "--output", path))
        files = [f"--from-file={file}" for file in LOAD_FILES]
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
        report(f"{what}: {answered} requests meanwhile, none failed")

    def counted(self) -> dict[str, Any]:
        """The load's last line."""
        line = self.kubectl("logs", "load", "--tail=1")
        return json.loads(line) if line.strip() else {"answered": 0, "failed": 0}

    def explain(self) -> None:
        """Show what a person would look at next."""
        pods = "--selector=app.kubernetes.io/instance=stable"
        for words in ("get pods -o wide", "get events", f"logs {pods} --tail=20"):
            subprocess.run(self.command(*words.split()))


def load_pod(image: str) -> dict[str, Any]:
    """Return the manifest of the load's pod, with the gateway's image."""
    pod = yaml.safe_load(Path(__file__).with_name("load.yaml").read_text())
    pod["spec"]["containers"][0]["image"] = image
    return pod


def report(line: str) -> None:
    """Print what was checked."""
    print(f"  {line}", flush=True)
