"""Open a model's file with the Keras that wrote it, and find out how it takes pictures.

Lesson 01 calls `load_model` and `find_preprocessing` for the model, then `open_saved_model` and
`read_signature` for the SavedModel that it made.
"""

import inspect
import json
import re
import runpy
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tutorial import TutorialError
from tutorial.sources import EXPORT, check_code, model_format, read_config

UINT8_SIGNATURE = "serving_uint8"  # that every conversion adds
UNKNOWN_OBJECT = re.compile(  # in the errors of both Kerases
    r"(?:'class_name': 'function', 'config': |Could not locate (?:class|function) |"
    r"Unknown [a-z ]+: )'?(?:\w+>)?(\w+)"
)
FUNCTION = re.compile(  # as tf_keras writes it to .h5 files, and cannot read it
    r'{"module": "builtins", "class_name": "function", "config": "(\w+)",'
    r' "registered_name": "function"}'
)
OPERATION = re.compile(  # as Keras 3 writes it to .h5 files: unlike a layer, it cannot be trained
    r'"class_name": "(?!InputLayer|DTypePolicy)(\w+)", "config": {"name": "[^"]+"(?!, "trainable")'
)
PASSING = (  # layers and operations that leave the pixels' values, or come in training only
    *("Input", "Random", "Resizing", "CenterCrop", "Cast", "Reshape", "Permute"),
    *("GetItem", "Stack", "SlicingOp"),
)
LARGEST = 32  # of a pixel of 255 that a Rescaling or Normalization layer scales


def keras_version(path: Path) -> str:
    """Return the version of Keras that wrote a .h5 or .keras file, for example "2.7.0"."""
    if model_format(path) == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    with h5py.File(path) as file:
        version = file.attrs.get("keras_version", "2.0")  # only old ones write none
        return version if isinstance(version, str) else version.decode()


class SavedFunction:
    """A signature of a SavedModel, which can be called as a Keras model can."""

    def __init__(self, folder: Path, name: str) -> None:
        """Load the signature `name`. Raises TutorialError if the folder has no such signature."""
        functions, self.loaded = open_saved_model(folder)
        self._function = find_signature(functions, name)
        self.inputs = list(self._function.structured_input_signature[1].values())

    def __call__(self, images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Return the outputs by name."""
        return self._function(**{self.inputs[0].name: images})


Model = keras.Model | tf_keras.Model | SavedFunction


def load_model(
    path: Path, signature: str = "serving_default", *, custom_objects: str = "", trusted: str = ""
) -> Model:
    """Load a Keras file with the Keras that wrote it, or a signature of a SavedModel.

    Args:
        path: The file or folder.
        signature: The signature, if it is a SavedModel.
        custom_objects: The path of a Python file with the model's own layers and functions.
        trusted: "1" if code in the file may run.

    Raises TutorialError, with what to do, if that fails.
    """
    if model_format(path) == "SavedModel":
        if signature == UINT8_SIGNATURE:
            raise TutorialError(
                f"SIGNATURE={signature} is a signature that this conversion adds: choose another"
            )
        return SavedFunction(path, signature)
    check_code(path, trusted)
    try:
        reader = tf_keras if keras_version(path).startswith("2.") else keras
        objects = family_layers(reader) | _objects_in(custom_objects)
        config, functions = FUNCTION.subn(r'"\1"', read_config(path))
        if custom_objects and functions and reader is tf_keras and model_format(path) == ".h5":
            model = tf_keras.models.model_from_json(config, objects)
            model.load_weights(path)
            return model
        with tempfile.TemporaryDirectory() as folder:
            link = Path(folder) / f"model{model_format(path)}"  # Keras goes by the ending
            link.symlink_to(path.resolve())
            return reader.models.load_model(
                link,
                custom_objects=objects,
                compile=False,  # serving needs no optimizer
                safe_mode=trusted != "1",
            )
    except TutorialError:
        raise
    except Exception as error:
        operation = model_format(path) == ".h5" and OPERATION.search(read_config(path))
        if operation and not keras_version(path).startswith("2."):
            raise TutorialError(
                f"{path} has the operation {operation[1]}, which Keras 3 cannot read from a .h5"
                " file. Save the model with model.save('model.keras') where you trained it, then"
                " set MODEL=model.keras"
            ) from error
        if unknown := UNKNOWN_OBJECT.search(str(error)):
            raise TutorialError(
                f"{path} uses {unknown[1]}, which is not part of Keras. {EXPORT}. Or set"
                f" CUSTOM_OBJECTS=module.py to a Python file that defines {unknown[1]}"
            ) from error
        raise TutorialError(
            f"{path} cannot be read as a Keras model: {first_line(error)}. {EXPORT}"
        ) from error


def family_layers(reader: ModuleType) -> dict[str, type]:
    """Return layers of keras.applications that `reader`, a Keras, does not find again."""
    module = inspect.getmodule(reader.applications.ConvNeXtTiny)
    return {name: getattr(module, name) for name in ("LayerScale", "StochasticDepth")}


def _objects_in(path: str) -> dict[str, object]:
    if not path:
        return {}
    try:
        return {name: value for name, value in runpy.run_path(path).items() if callable(value)}
    except Exception as error:
        raise TutorialError(
            f"CUSTOM_OBJECTS={path} fails with {type(error).__name__}: {first_line(error)}"
        ) from error


def find_preprocessing(model: Model, preprocessing: str) -> str:
    """Return `preprocessing` or, if it is empty and the model scales its input itself, "none".

    Raises TutorialError for another one if the model takes pixels as whole numbers.
    """
    dtype = tf.as_dtype(model.inputs[0].dtype)
    takes_bytes = dtype.is_integer
    if dtype == tf.int8:
        raise TutorialError(
            "the model takes int8, -128 to 127, but pixels are 0 to 255. Build a model around it"
            " that takes uint8, and save that"
        )
    if takes_bytes and preprocessing not in ("", "none"):
        raise TutorialError(
            f"the model takes whole numbers, 0 to 255: PREPROCESSING=none, not {preprocessing}"
        )
    if not preprocessing and (takes_bytes or scales_its_input(model)):
        print("the model scales its input itself")
        return "none"
    return preprocessing


def scales_its_input(model: Model) -> bool:
    """Return whether the first layer that changes the pixels' values scales them.

    Arithmetic such as `preprocess_input` does not count: other scaling may come before the model.
    """
    for layer in all_layers(model):
        name = type(layer).__name__
        if name in ("Rescaling", "Normalization"):
            factor = layer.scale if name == "Rescaling" else np.asarray(layer.variance) ** -0.5
            return 255 * np.max(np.abs(factor)) < LARGEST
        if not name.startswith(PASSING):
            break
    return False


def all_layers(model: object) -> Iterator:
    """Return the layers and operations of a Keras model, and of the models in it."""
    for layer in getattr(model, "operations", getattr(model, "layers", [])):
        yield from all_layers(layer) if hasattr(layer, "layers") else [layer]


def open_saved_model(folder: Path) -> tuple[dict[str, Callable], object]:
    """Load a SavedModel; return its signatures by name, and what has to stay with them.

    Raises TutorialError if that fails.
    """
    try:
        loaded = tf.saved_model.load(folder, tags=["serve"])
        return dict(loaded.signatures), loaded
    except Exception as error:
        raise TutorialError(f"the SavedModel cannot be read: {first_line(error)}") from error


def find_signature(functions: dict[str, Callable], name: str) -> Callable:
    """Return the signature `name`. Raises TutorialError, with the names, if there is none."""
    if not functions:
        raise TutorialError(f"the SavedModel has no signature, which says what it takes. {EXPORT}")
    if name not in functions:
        others = " or ".join(f"SIGNATURE={other}" for other in functions)
        raise TutorialError(f"the SavedModel has no signature {name!r}: set {others}")
    return functions[name]


@dataclass(frozen=True)
class SavedSignature:
    """A signature of a SavedModel that takes images and returns one score for each label."""

    function: Callable[..., dict[str, tf.Tensor]]
    name: str
    dtype: str  # of the images
    input_name: str
    image_shape: tuple[int, int, int]  # height, width, channels
    output_name: str
    outputs: int  # scores for each image

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the scores (N, labels) of `images` (N, height, width, channels)."""
        return self.function(**{self.input_name: tf.constant(images)})[self.output_name].numpy()


def read_signature(functions: dict[str, Callable], name: str, labels: list[str]) -> SavedSignature:
    """Return the signature `name` of a SavedModel that `save_model` wrote.

    Raises TutorialError unless it has one output with a score for each label. One score is enough
    for two labels.
    """
    function = find_signature(functions, name)
    [(input_name, image)] = function.structured_input_signature[1].items()
    outputs = function.structured_outputs.items()
    shapes = {key: tuple(spec.shape) if spec.shape.rank else () for key, spec in outputs}
    fitting = [key for key, shape in shapes.items() if shape[1:] == (len(labels),)]
    if len(labels) == 2 and not fitting:
        fitting = [key for key, shape in shapes.items() if shape[1:] == (1,)]
    if unknown := [key for key, spec in outputs if spec.shape.rank is None and not fitting]:
        raise TutorialError(
            f"the SavedModel does not say the shape of its output {unknown[0]}. Set it where you"
            f" export the model: tf.ensure_shape({unknown[0]}, (None, {len(labels)}))"
        )
    if all(len(shape) != 2 for shape in shapes.values()):
        raise TutorialError(
            f"the model is no classifier, which gives one score a label: its outputs are {shapes}."
            " Detection and segmentation need another service"
        )
    if len(fitting) != 1:
        given = ", ".join(
            f"{shape[1]} scores ({key})" for key, shape in shapes.items() if shape[1:]
        )
        raise TutorialError(
            f"LABELS has {len(labels)} names, and the model gives {given}. Give LABELS as many"
            f" names{', or set OUTPUT to one of the outputs' if len(shapes) > 1 else ''}"
        )
    shape = tuple(image.shape.as_list()[1:])
    width = shapes[fitting[0]][1]
    return SavedSignature(function, name, image.dtype.name, input_name, shape, fitting[0], width)


def first_line(error: Exception) -> str:
    """Return the line of an error that says the reason, at most 300 characters of it."""
    text = str(error).rpartition("Exception encountered: ")[2]  # behind it, Keras says why
    if bold := re.search(r"\x1b\[1m(.+?)\x1b", text):  # how Keras 3 prints the reason
        text = bold[1]
    line = text.strip().partition("\n")[0]
    return line if len(line) <= 300 else f"{line[:300]} …"
