"""Which TensorFlow operations are young, and since which version each one exists.

A SavedModel names the operations that its graph uses; a server whose TensorFlow is older than one
of them cannot load it. op_history.json holds the operations added after TensorFlow 2.7, each with
the minor version that brought it. It is read off the published wheels, whose generated Python files
name every operation; to bring it up to date after a new release:

    pip download --no-deps --dest wheels tensorflow-cpu==2.7.4   # and one wheel of each later minor
    python -m tutorial.op_history wheels/*.whl
"""

import json
import re
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

_FILE = Path(__file__).with_name("op_history.json")
_GENERATED = re.compile(r"/gen_\w+\.py$")
_OPERATION = re.compile(r'_apply_op_helper\(\s*"(\w+)"')


def added_after(version: str) -> dict[str, str]:
    """Operations that TensorFlow `version` ("2.11", 2.7 or later) lacks: name -> first version."""
    history = json.loads(_FILE.read_text())
    return {name: first for name, first in history.items() if _key(first) > _key(version)}


def operations(wheel: Path) -> set[str]:
    """The names of all operations in a TensorFlow wheel."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if _GENERATED.search(name)]
        return {op for name in files for op in _OPERATION.findall(archive.read(name).decode())}


def first_versions(releases: Iterable[tuple[str, set[str]]]) -> dict[str, str]:
    """From (minor version, operations) in any order: name -> version, without the oldest's."""
    (_, known), *later = sorted(releases, key=lambda release: _key(release[0]))
    history: dict[str, str] = {}
    for version, names in later:
        history |= dict.fromkeys(sorted(names - known - history.keys()), version)
    return history


def _key(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


def main(wheels: list[str]) -> None:
    """Write op_history.json from the wheels."""
    releases = [
        (".".join(Path(wheel).name.split("-")[1].split(".")[:2]), operations(Path(wheel)))
        for wheel in wheels
    ]
    _FILE.write_text(json.dumps(first_versions(releases), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
