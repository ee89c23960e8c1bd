"""Find the file of a model, before TensorFlow is loaded."""

import re
import zipfile
from pathlib import Path

import h5py

from tutorial import ROOT, TutorialError
from tutorial.downloads import download

CLOTHES = "dress,hat,longsleeve,outwear,pants,shirt,shoes,shorts,skirt,t-shirt"
BUNDLED = ("starter", "course")  # what MODEL may be, apart from a path
STARTER = ROOT / "starter/starter.h5"
COURSE = ROOT / "downloads/xception_v4_large_08_0.894.h5"
COURSE_URL = (
    "https://github.com/DataTalksClub/machine-learning-zoomcamp/releases/download/chapter7-model/"
    + COURSE.name
)
COURSE_GIT_BLOB = "df8ca9d2747dab6be89d9af3ac95040bb3c0b424"


def find_model(model: str) -> Path:
    """Return the path of a model's file; `model` is "starter", "course" or a path.

    The course's model is downloaded at first. Raises TutorialError if there is no such file, or if
    it is neither a .h5 file, a .keras file nor the folder of a SavedModel.
    """
    if model == "course":
        return download(COURSE_URL, COURSE, git_blob=COURSE_GIT_BLOB)
    path = STARTER if model == "starter" else Path(model).expanduser()
    model_format(path)
    return path


def model_format(path: Path) -> str:
    """Return "SavedModel", ".keras" or ".h5", from the content of `path`."""
    if (path / "saved_model.pb").exists():
        return "SavedModel"
    if path.is_dir():
        raise TutorialError(f"{path} has no saved_model.pb: give MODEL the folder of a SavedModel")
    if not path.exists():
        raise TutorialError(f"there is no file {path}: give MODEL the path of a Keras file")
    if zipfile.is_zipfile(path):
        return ".keras"
    if h5py.is_hdf5(path):
        return ".h5"
    raise TutorialError(f"{path} cannot be read as a Keras model: it is neither .h5 nor .keras")


def read_labels(model: str, labels: str) -> list[str]:
    """Return the class names in `labels`, which are separated by commas.

    The models of this tutorial need none. Raises TutorialError if another model has none, and for
    an empty name or one that comes twice.
    """
    if model not in BUNDLED and not labels:
        raise TutorialError("name your model's classes, in the order of its output: LABELS=cat,dog")
    names = [label.strip() for label in (labels or CLOTHES).split(",")]
    if "" in names:
        raise TutorialError(f"label {names.index('') + 1} of LABELS is empty")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TutorialError(f"LABELS has {', '.join(twice)} more than once")
    return names


def served_name(model: str, name: str = "") -> str:
    """Return `name` or, if it is empty, "starter", "course" or a name like the file's.

    It is part of URLs: raises TutorialError for one that cannot be. A file of the user's never gets
    the name of a model of this tutorial.
    """
    if name and not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise TutorialError(f"MODEL_NAME={name} is part of URLs: use letters, digits, - and _ only")
    if name or model in BUNDLED:
        return name or model
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).resolve().stem).strip("-") or "model"
    return f"my-{name}" if name in BUNDLED else name
