"""The command behind `make kind-test`: a cluster inside Docker, both images, and the check.

python -m tests.cluster.kind [--keep]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.cluster.check import OVERLAY, Check
from tutorial import TutorialError, kubernetes, services
from tutorial.model_folder import versions
from tutorial.run import convert

CLUSTER = "clothing-test"
MODEL = "starter"


def missing() -> list[str]:
    """What this machine lacks, and where to get it."""
    wanted = {
        "docker": (shutil.which("docker"), "https://docs.docker.com/engine/install/"),
        "kind": (shutil.which("kind"), "https://kind.sigs.k8s.io/docs/user/quick-start/"),
    }
    lacking = [f"{name}  {where}" for name, (found, where) in wanted.items() if not found]
    if shutil.which("docker") and not quietly("docker", "info"):
        lacking.append("a Docker engine that answers `docker info`")
    return lacking


def quietly(*command: str) -> bool:
    """Run a command without output; return whether it succeeded."""
    return subprocess.run(command, capture_output=True).returncode == 0


def run(*command: str | Path) -> None:
    """Run a command in the project's root, in the open; TutorialError where it fails."""
    print("$", *command, flush=True)
    result = subprocess.run(command, cwd=services.ROOT)
    if result.returncode:
        raise TutorialError(f"{command[0]} ended with {result.returncode}")


def images() -> dict[str, str]:
    """Tier to image, as the manifests name them."""
    base = yaml.safe_load((kubernetes.K8S / "base/kustomization.yaml").read_text())
    return {
        i["name"].removeprefix("clothing-"): f"{i['name']}:{i['newTag']}" for i in base["images"]
    }


def build() -> dict[str, str]:
    """Both images and a successor of each, loaded into the cluster; returns the successors."""
    now = images()
    successors = {tier: f"clothing-{tier}:next" for tier in now}
    model = services.ROOT / "models" / convert(MODEL)
    latest = versions(model)[-1]
    target = ["--target", services.model_target()]
    os.environ["BUILDX_NO_DEFAULT_ATTESTATIONS"] = "1"  # kind cannot load images with attestations
    name = ["--build-arg", f"MODEL_NAME={MODEL}"]
    run("docker", "build", "-f", "Dockerfile.gateway", "-t", now["gateway"], ".")
    run("docker", "build", "-f", "Dockerfile.model", *target, *name, "-t", now["model"], ".")
    news = {
        "gateway": "LABEL next=",
        "model": f"COPY {latest + 1} /models/{MODEL}/{latest + 1}",
    }
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(model / str(latest), Path(folder, str(latest + 1)))
        for tier, instruction in news.items():
            Path(folder, "Dockerfile").write_text(f"FROM {now[tier]}\n{instruction}\n")
            run("docker", "build", "-t", successors[tier], folder)
    run("kind", "load", "docker-image", "--name", CLUSTER, *now.values(), *successors.values())
    return successors


def main() -> None:
    """Build, check, clean up; say what is missing where it cannot begin."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true", help="leave the cluster, to look into it")
    args = parser.parse_args()
    if lacking := missing():
        sys.exit("make kind-test needs, and does not find:\n  " + "\n  ".join(lacking))
    try:
        if not quietly("kind", "get", "kubeconfig", "--name", CLUSTER):
            config = ["--config", OVERLAY / "cluster.yaml"]
            run("kind", "create", "cluster", "--name", CLUSTER, *config, "--wait", "120s")
        checked = Check(f"kind-{CLUSTER}", next_images=build())
        try:
            checked.run()
        except TutorialError:
            checked.explain()
            raise
    except TutorialError as error:
        sys.exit(f"make kind-test: {error}")
    finally:
        if not args.keep:
            quietly("kind", "delete", "cluster", "--name", CLUSTER)


if __name__ == "__main__":
    main()
