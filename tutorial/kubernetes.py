"""The manifests under k8s/ as a cluster would get them, and whether there is a cluster.

python -m tutorial.kubernetes contract NAME     take models/NAME's contract into the manifests
"""

import argparse
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

from tutorial import TutorialError, services
from tutorial.model_folder import require

K8S = services.ROOT / "k8s"
CONTRACT = K8S / "base/contract.json"
MODELS_CONFIG = K8S / "components/canary/models.config"

Manifest = dict  # one object of a cluster


def kubectl() -> str | None:
    """The kubectl of this environment, which requirements.txt pins, else PATH's, else None."""
    return shutil.which("kubectl", path=sysconfig.get_path("scripts")) or shutil.which("kubectl")


def components() -> list[str]:
    """The names of k8s/components/."""
    return sorted(path.parent.name for path in K8S.glob("components/*/kustomization.yaml"))


def render(folder: str | Path) -> list[Manifest]:
    """The objects that `kubectl apply -k folder` would send; TutorialError with kubectl's words.

    Without a kubectl they are read from the folder's files: without what kustomize adds to them.
    """
    command = kubectl()
    if not command:
        return _read(Path(folder))
    result = subprocess.run([command, "kustomize", folder], capture_output=True, text=True)
    if result.returncode:
        raise TutorialError(f"kubectl cannot render {folder}: {result.stderr.strip()}")
    return list(yaml.safe_load_all(result.stdout))


def render_with(*names: str, base: str = "base") -> list[Manifest]:
    """As `render`, for k8s/`base` with these components: the menu, with lines taken in."""
    services.BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="menu-", dir=services.BUILD) as folder:
        k8s = os.path.relpath(K8S, folder)  # kustomize takes no absolute path
        menu = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "clothing",
            "resources": [f"{k8s}/{base}"],
            "components": [f"{k8s}/components/{name}" for name in names],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(menu))
        return render(folder)


def find(objects: Iterable[Manifest], kind: str, name: str) -> Manifest:
    """The one object of a kind and name; LookupError where there is none."""
    for candidate in objects:
        if (candidate["kind"], candidate["metadata"]["name"]) == (kind, name):
            return candidate
    raise LookupError(f"no {kind} {name}")


def answers(context: str) -> bool:
    """Whether kubectl knows this context, and its cluster answers now."""
    command = kubectl()
    if not command:
        return False
    question = ["--context", context, "version", "--request-timeout=3s"]
    return subprocess.run([command, *question], capture_output=True).returncode == 0


def show(command: str, context: str) -> None:
    """Run kubectl with `command` in the repository's folder, and print the command and its output.

    If the cluster of `context` does not answer, print only the command.
    """
    print("$ kubectl", command)
    if not answers(context):
        print("  (not run: there is no cluster)")
        return
    words = [kubectl(), "--context", context, *command.split()]
    result = subprocess.run(words, cwd=services.ROOT, capture_output=True, text=True)
    print(result.stdout + result.stderr)


def take_contract(model_folder: Path) -> None:
    """Copy a model's contract.json into the manifests, and name the model where they do.

    kustomize reads no file outside its own folder, so that a manifest cannot pick up others': what
    notebook 01 wrote has to be copied in.
    """
    shutil.copyfile(model_folder / "contract.json", CONTRACT)
    text = MODELS_CONFIG.read_text()
    text = re.sub(r'(?<=name: ")[^"]*', model_folder.name, text)
    text = re.sub(r'(?<=base_path: "/models/)[^"]*', model_folder.name, text)
    MODELS_CONFIG.write_text(text)


def _read(folder: Path) -> list[Manifest]:
    menu = yaml.safe_load((folder / "kustomization.yaml").read_text())
    objects = []
    for name in [*menu.get("resources", []), *menu.get("components", [])]:
        path = folder / name
        objects += _read(path) if path.is_dir() else yaml.safe_load_all(path.read_text())
    return objects


def main() -> None:
    """The command behind `make contract`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    contract = commands.add_parser("contract", help="take a model's contract into the manifests")
    contract.add_argument("model_name", help="a folder in models/")
    args = parser.parse_args()
    try:
        take_contract(require(services.ROOT / "models", args.model_name))
    except TutorialError as error:
        sys.exit(f"make contract: {error}")
    print(f"{CONTRACT.relative_to(services.ROOT)} is now that of {args.model_name}")


if __name__ == "__main__":
    main()
