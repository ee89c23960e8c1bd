"""Find the file of a model, before TensorFlow is loaded."""

import difflib
import json
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
EXPORT = "Run model.export('folder') where you trained the model, then set MODEL=folder"
ONLY_WEIGHTS = (
    "only weights, not the layers. Build the model in Python as you trained it, call"
    " model.load_weights and model.save('model.keras'), then set MODEL=model.keras"
)


def find_model(model: str, trusted: str = "") -> Path:
    """Return the path of a model's file; `model` is "starter", "course" or a path.

    The course's model is downloaded at first. Raises TutorialError, with what to do, if it is not a
    whole model in a .h5 file, a .keras file or the folder of a SavedModel, and as `check_code`.
    """
    if model == "course":
        return download(COURSE_URL, COURSE, git_blob=COURSE_GIT_BLOB)
    path = STARTER if model == "starter" else Path(model).expanduser()
    check_code(path, trusted)
    return path


def check_code(path: Path, trusted: str = "") -> None:
    """Raise TutorialError if the file has weights only, or code that is not `trusted` ("1")."""
    if model_format(path) == "SavedModel":
        return
    without_training = {"object_hook": lambda part: part | {"compile_config": None}}
    config = json.dumps(json.loads(read_config(path), **without_training))
    if re.search(r'": {"value": \["4[\w+/]{20}', config):  # a function's bytecode, in base64
        raise TutorialError(
            f"{path} has a lambda for an activation, which Keras saves but cannot read. {EXPORT}"
        )
    if '"class_name": "Lambda"' in config and trusted != "1":
        raise TutorialError(
            f"{path} has a Lambda layer, so loading it runs code from the file. {EXPORT}."
            " If you trust the file, set TRUSTED=1"
        )


def model_format(path: Path) -> str:
    """Return "SavedModel", ".keras" or ".h5", from the content of `path`.

    Raises TutorialError, with what to do, for anything else.
    """
    if (path / "saved_model.pb").exists():
        return "SavedModel"
    part = re.search(r"\.index$|\.data-\d+-of-\d+$", path.name)
    if part or path.with_name(f"{path.name}.index").exists() or (path / "checkpoint").exists():
        raise TutorialError(f"{path} is a checkpoint: it has {ONLY_WEIGHTS}")
    if path.is_dir():
        if (path / "config.json").exists() and (path / "metadata.json").exists():
            raise TutorialError(
                f"{path} is an unpacked .keras file: set MODEL to the file it came from, or pack it"
                f" again, (cd {path} && zip -r ../packed.keras .), and set MODEL to that"
            )
        inner = [each.parent for each in path.glob("*/saved_model.pb")]
        inner += [*path.glob("*.keras"), *path.glob("*.h5")]
        paths = " or MODEL=".join(sorted(map(str, inner)))
        hint = f"set MODEL={paths}" if inner else "set MODEL to a SavedModel"
        raise TutorialError(f"{path} has no saved_model.pb: {hint}")
    if not path.exists():
        names = [each.name for each in path.parent.glob("*")]
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "give MODEL the path of a Keras file"
        raise TutorialError(f"there is no file {path.absolute()}: {hint}")
    if path.name == "saved_model.pb":
        raise TutorialError(f"{path} is a part of a SavedModel: set MODEL={path.parent}")
    other = {".onnx": "an ONNX", ".pt": "a PyTorch", ".pth": "a PyTorch"}.get(path.suffix)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if {"config.json", "metadata.json"} <= set(names):
            return ".keras"
        if any(name.endswith(("data.pkl", "constants.pkl")) for name in names):
            other = "a PyTorch"
    if h5py.is_hdf5(path):
        return ".h5"
    with path.open("rb") as file:
        if file.read(8)[4:] == b"TFL3":
            other = "a TensorFlow Lite"
    if other:
        raise TutorialError(
            f"{path} is {other} file: this path serves Keras models and SavedModels. Where the"
            " model was a Keras one, save that with model.save('model.keras')"
        )
    raise TutorialError(
        f"{path} cannot be read as a Keras model: it is neither .h5 nor .keras, or not whole."
        " Save it again with model.save('model.keras')"
    )


def read_config(path: Path) -> str:
    """Return the description of the layers, JSON, in a .h5 or .keras file.

    Raises TutorialError if the file has weights only.
    """
    zipped = model_format(path) == ".keras"
    try:
        if zipped:
            with zipfile.ZipFile(path) as archive:
                return archive.read("config.json").decode()
        with h5py.File(path) as file:
            config = file.attrs.get("model_config")
    except (OSError, zipfile.BadZipFile) as error:
        raise TutorialError(
            f"{path} cannot be read as a Keras model: the file is not whole"
        ) from error
    if config is None:
        raise TutorialError(f"{path} has {ONLY_WEIGHTS}")
    return config if isinstance(config, str) else config.decode()


def read_labels(model: str, labels: str) -> list[str]:
    """Return the class names in `labels`: separated by commas, or the path of a file with them.

    A .txt or .csv file has one a line. A .json file has a list, or what Keras calls class_indices:
    name to number, or number to name. The models of this tutorial need none. Raises TutorialError
    if another model has none, and for an empty name or one that comes twice.
    """
    if model not in BUNDLED and not labels:
        raise TutorialError("name your model's classes, in the order of its output: LABELS=cat,dog")
    if model in BUNDLED and labels:
        raise TutorialError(f"MODEL={model} has its own labels: set MODEL to your file, too")
    if labels.startswith("["):
        raise TutorialError("LABELS has names without brackets and quotes: LABELS=cat,dog")
    if path := labels_file(labels):
        names = _labels_in(path)
    else:
        names = [label.strip() for label in (labels or CLOTHES).split(",")]
    if "" in names:
        raise TutorialError(f"label {names.index('') + 1} of LABELS is empty")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TutorialError(f"LABELS has {', '.join(twice)} more than once")
    return names


def labels_file(labels: str) -> Path | None:
    """Return the path in `labels`, or None if it has names."""
    path = Path(labels).expanduser()
    known = path.suffix.lower() in (".txt", ".csv", ".json")
    return path if known or ("," not in labels and path.is_file()) else None


def _labels_in(path: Path) -> list[str]:
    kind = path.suffix.lower()
    if not path.exists():
        raise TutorialError(f"there is no file {path}: LABELS is names, or a file with them")
    try:
        data = path.read_bytes()
        text = data.decode(json.detect_encoding(data)).strip()  # PowerShell writes UTF-16
        found = json.loads(text) if kind == ".json" else text.splitlines()
        if kind != ".json" and (kind == ".csv" or len(found) == 1) and re.search("[,;\t]", text):
            raise ValueError("write one name on each line, and nothing else")
        if isinstance(found, dict):
            by_number = all(key.isdecimal() for key in found)
            if by_number and not all(isinstance(value, int) for value in found.values()):
                numbered = [(int(key), name) for key, name in found.items()]
            else:
                numbered = [(int(value), name) for name, value in found.items()]
            if sorted(number for number, _ in numbered) != list(range(len(numbered))):
                raise ValueError("its numbers are not 0, 1, 2, …")
            found = [name for _, name in sorted(numbered, key=lambda pair: pair[0])]
        if wrong := [name for name in found if not isinstance(name, (str, int))]:
            raise ValueError(f"{wrong[0]} is not a name")
        return [str(name).strip() for name in found]
    except (OSError, ValueError, TypeError) as error:
        why = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise TutorialError(f"cannot read the labels in {path}: {why}") from error


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
