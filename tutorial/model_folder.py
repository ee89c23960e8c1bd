"""Write and find models/NAME/: the folder that a model server serves, with its contract.json."""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from tutorial import TutorialError

SOURCE = "assets.extra/source.sha256"  # in a version: the hash of the file it was made from


def publish(
    draft: Path, folder: Path, version: int, contract: dict, source: Path | None = None
) -> Path:
    """Copy the SavedModel `draft` to `folder`/`version` and write contract.json beside it.

    The hash of `source`, the model's file, goes into the version, so that `next_version` knows it.
    A reference beside that file, NAME.reference.json, becomes reference.json beside the contract.
    A version of that number is replaced. The copy gets its name only when it is complete, so a
    server that watches the folder never sees half a version. Returns the version's folder.
    """
    final = folder / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    # Servers ignore the temporary folder, because its name is no number.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        unfinished = Path(name)
        shutil.copytree(draft, unfinished / "new")
        if source:
            (unfinished / "new" / SOURCE).parent.mkdir(exist_ok=True)
            (unfinished / "new" / SOURCE).write_text(source_hash(source))
        text = json.dumps(contract, indent=2) + "\n"
        (unfinished / "contract.json").write_text(text, encoding="utf-8")
        if final.exists():
            os.replace(final, unfinished / "old")
        os.replace(unfinished / "new", final)
        os.replace(unfinished / "contract.json", folder / "contract.json")
        if source and (reference := source.with_suffix(".reference.json")).exists():
            shutil.copyfile(reference, unfinished / "reference.json")
            os.replace(unfinished / "reference.json", folder / "reference.json")
    return final


def versions(folder: Path) -> list[int]:
    """Return the versions in a model's folder, in rising order; servers serve the last one."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def source_hash(source: Path) -> str:
    """Return a hash of the content of a model's file, or of all files in its folder."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    found = hashlib.sha256()
    for path in files:
        if path.is_file():
            found.update(str(path.relative_to(source)).encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def next_version(folder: Path, source: Path) -> int:
    """Return the version to write for a model's file, so that servers serve this file.

    It is the highest version if that was made from the same content, else the one after it.
    """
    last = max(versions(folder), default=0)
    note = folder / str(last) / SOURCE
    same = note.exists() and note.read_text() == source_hash(source)
    return last if same else last + 1


def require(models_dir: str | Path, name: str) -> Path:
    """Return the folder of a converted model; raise TutorialError if there is none."""
    folder = Path(models_dir) / name
    if not (folder / "contract.json").exists() or not versions(folder):
        raise TutorialError(
            f"there is no converted model {folder}: run notebook 01-convert-model first"
            f" (its parameters MODEL and MODEL_NAME decide the name)"
        )
    return folder
