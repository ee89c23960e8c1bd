"""Say which TensorFlow operations are young, and since which version each one exists.

A SavedModel names the operations that its graph uses; a server whose TensorFlow is older than one
of them cannot load it. op_history.json holds the operations added after TensorFlow 2.7, each with
the minor version that brought it. To add those of a new version:

    pip download --no-deps --dest wheels tensorflow-cpu==2.20.0 tensorflow-cpu==2.21.0
    python -m tutorial.op_history wheels/*-2.20.*.whl wheels/*-2.21.*.whl
"""

import json
import re
import sys
import zipfile
from pathlib import Path

HISTORY = Path(__file__).with_name("op_history.json")
GENERATED = re.compile(r"/gen_\w+\.py$")  # the files of a wheel that name every operation
OPERATION = re.compile(r'_apply_op_helper\(\s*"(\w+)"')


def added_after(version: str) -> dict[str, str]:
    """Return what TensorFlow `version` ("2.7" or later) lacks: operation -> first version."""
    history = json.loads(HISTORY.read_text())
    return {name: first for name, first in history.items() if _numbers(first) > _numbers(version)}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def operations(wheel: Path) -> set[str]:
    """Return the names of all operations in a TensorFlow wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if GENERATED.search(name)]
        return {op for name in files for op in OPERATION.findall(archive.read(name).decode())}


def main(older: Path, newer: Path) -> None:
    """Add the operations that the newer wheel has and the older one lacks to op_history.json."""
    version = re.search(r"-(\d+\.\d+)\.", newer.name)[1]
    history = json.loads(HISTORY.read_text())
    added = operations(newer) - operations(older) - history.keys()
    history |= dict.fromkeys(sorted(added), version)
    HISTORY.write_text(json.dumps(history, indent=1) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
