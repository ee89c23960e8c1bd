"""The folder that a model server serves: models/NAME/ with its versions and contract.json."""

import json
import os
import shutil
from pathlib import Path

from tutorial import TutorialError

BUNDLED = ("starter", "course")  # what MODEL may be, apart from a path


def served_name(model: str) -> str:
    """The name under which a model is served when nobody gives one: from MODEL, word or path."""
    return model if model in BUNDLED else Path(model).stem


def publish(draft: Path, folder: Path, version: int, contract: dict) -> Path:
    """Copy the SavedModel `draft` to `folder`/`version`, and write contract.json beside it.

    A version of that number is replaced. The copy gets its final name only when it is whole, so a
    server that watches the folder never sees half a version.
    """
    final = folder / str(version)
    unfinished = folder / f".{version}.unfinished"  # not a number: servers pass it over
    replaced = folder / f".{version}.replaced"
    for leftover in (unfinished, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(draft, unfinished)
        note = folder / ".contract.json.unfinished"
        note.write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")
        if final.exists():
            os.replace(final, replaced)
        os.replace(unfinished, final)
        os.replace(note, folder / "contract.json")
    finally:
        for leftover in (unfinished, replaced):
            shutil.rmtree(leftover, ignore_errors=True)
        if not versions(folder):  # a first version that failed leaves no empty folder
            shutil.rmtree(folder, ignore_errors=True)
    return final


def versions(folder: Path) -> list[int]:
    """The versions in a model's folder, in rising order; the last one is served."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def require(models_dir: str | Path, name: str) -> Path:
    """The folder of a converted model; TutorialError says how to make it where it is missing."""
    folder = Path(models_dir) / name
    if not (folder / "contract.json").exists() or not versions(folder):
        raise TutorialError(
            f"there is no converted model {folder}: run notebook 01-convert-model first"
            f" (its parameters MODEL and MODEL_NAME decide the name)"
        )
    return folder
