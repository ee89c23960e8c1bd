"""Render the manifests under k8s/, and take a model's contract into them.

python -m tutorial.kubernetes NAME     take models/NAME's contract into the manifests
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

import yaml

from tutorial import ROOT, TutorialError, one_line_errors, processes
from tutorial.model_folder import require

K8S = ROOT / "k8s"
CONTRACT = K8S / "base/contract.json"
MODELS_CONFIG = K8S / "components/canary/models.config"

Manifest = dict  # one object of a cluster


def kubectl() -> str:
    """Return the path of kubectl, which requirements.txt installs beside Python."""
    return os.path.join(sysconfig.get_path("scripts"), "kubectl")


def components() -> list[str]:
    """Return the names of the folders in k8s/components/."""
    return sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))


def render(folder: str | Path) -> list[Manifest]:
    """Return the objects that `kubectl apply -k folder` would send.

    Raises TutorialError, with the words of kubectl, if it cannot render them.
    """
    result = subprocess.run([kubectl(), "kustomize", folder], capture_output=True, text=True)
    if result.returncode:
        raise TutorialError(f"kubectl cannot render {folder}: {result.stderr.strip()}")
    return list(yaml.safe_load_all(result.stdout))


def render_with(*names: str) -> list[Manifest]:
    """Return the objects of k8s/base with these components."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=build) as folder:
        k8s = os.path.relpath(K8S, folder)  # kustomize takes no absolute path
        kustomization = {
            "namespace": "clothing",
            "resources": [f"{k8s}/base"],
            "components": [f"{k8s}/components/{name}" for name in names],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return render(folder)


def find(objects: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """Return the object of this kind and name."""
    [found] = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def answers(context: str) -> bool:
    """Return whether kubectl knows this context, and its cluster answers now."""
    question = [kubectl(), "--context", context, "version", "--request-timeout=3s"]
    return subprocess.run(question, capture_output=True).returncode == 0


def show(command: str, context: str) -> None:
    """Run kubectl with `command` in the repository's folder, and print the command and its output.

    If the cluster of `context` does not answer, print only the command.
    """
    missing = None if answers(context) else "there is no cluster"
    words = [kubectl(), "--context", context, *command.split()]
    processes.show(f"kubectl {command}", words, missing=missing)


def take_contract(model_folder: Path) -> None:
    """Copy a model's contract.json into the manifests, and write the model's name where they do.

    A copy, because kustomize reads no file outside its own folder.
    """
    copy_contract(model_folder, CONTRACT.parent)
    text = MODELS_CONFIG.read_text()
    text = re.sub(r'(?<=name: ")[^"]*', model_folder.name, text)
    text = re.sub(r'(?<=base_path: "/models/)[^"]*', model_folder.name, text)
    MODELS_CONFIG.write_text(text)


def copy_contract(model_folder: Path, folder: Path) -> None:
    """Copy a model's contract.json and reference.json to `folder`; an absent reference is empty."""
    shutil.copyfile(model_folder / "contract.json", folder / "contract.json")
    reference = model_folder / "reference.json"
    text = reference.read_text(encoding="utf-8") if reference.exists() else "{}\n"
    (folder / "reference.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with one_line_errors("make contract"):
        take_contract(require(ROOT / "models", sys.argv[1]))
        print(f"{CONTRACT.relative_to(ROOT)} is now that of {sys.argv[1]}")
