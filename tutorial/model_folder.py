"""Write and find models/NAME/: the folder that a model server serves, with its contract.json."""

import json
import os
import shutil
import tempfile
from pathlib import Path

from tutorial import TutorialError


def publish(draft: Path, folder: Path, version: int, contract: dict) -> Path:
    """Copy the SavedModel `draft` to `folder`/`version` and write contract.json beside it.

    A version of that number is replaced. The copy gets its name only when it is complete, so a
    server that watches the folder never sees half a version. Returns the version's folder.
    """
    final = folder / str(version)
    folder.mkdir(parents=True, exist_ok=True)
    # Servers ignore the temporary folder, because its name is no number.
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        unfinished = Path(name)
        shutil.copytree(draft, unfinished / "new")
        text = json.dumps(contract, indent=2) + "\n"
        (unfinished / "contract.json").write_text(text, encoding="utf-8")
        if final.exists():
            os.replace(final, unfinished / "old")
        os.replace(unfinished / "new", final)
        os.replace(unfinished / "contract.json", folder / "contract.json")
    return final


def versions(folder: Path) -> list[int]:
    """Return the versions in a model's folder, in rising order; servers serve the last one."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def require(models_dir: str | Path, name: str) -> Path:
    """Return the folder of a converted model; raise TutorialError if there is none."""
    folder = Path(models_dir) / name
    if not (folder / "contract.json").exists() or not versions(folder):
        raise TutorialError(
            f"there is no converted model {folder}: run notebook 01-convert-model first"
            f" (its parameters MODEL and MODEL_NAME decide the name)"
        )
    return folder
