"""Convert a Keras file into the folder that TensorFlow Serving serves.

Lesson 01 calls these functions in this order:

1. `load_model` reads the file.
2. `float_signature` and `uint8_signature` make the signatures, and `save_model` writes them.
3. `open_saved_model` and `read_signature` read what was saved.
4. `check_scores` and `check_uint8_scores` compare its scores with those of the Keras model.
5. `write_warmup` adds the requests that the server runs at its start.

`model_folder.publish` then moves the result to models/ and writes its contract.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tutorial import TutorialError
from tutorial.sources import model_format

KerasModel = keras.Model | tf_keras.Model

UINT8_SIGNATURE = "serving_uint8"
TOLERANCE = 1e-5  # of a score, relative and absolute
UINT8_TOLERANCE = 1e-4  # scaling in the graph rounds differently
IMAGES = 4  # that are compared


@dataclass(frozen=True)
class SavedSignature:
    """A signature of a SavedModel that takes images and returns one score for each label."""

    function: Callable[..., dict[str, tf.Tensor]]
    name: str
    dtype: str  # of the images
    input_name: str
    image_shape: tuple[int, int, int]  # height, width, channels
    output_name: str

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the scores (N, labels) of `images` (N, height, width, channels)."""
        return self.function(**{self.input_name: tf.constant(images)})[self.output_name].numpy()


def keras_version(path: Path) -> str:
    """Return the version of Keras that wrote a .h5 or .keras file, for example "2.7.0"."""
    if model_format(path) == ".keras":
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("metadata.json"))["keras_version"]
    with h5py.File(path) as file:
        version = file.attrs["keras_version"]
        return version if isinstance(version, str) else version.decode()


def load_model(path: Path) -> KerasModel | None:
    """Load a Keras file with the Keras that wrote it; return None for a SavedModel.

    Raises TutorialError, with the first line of Keras' own error, if that fails.
    """
    if model_format(path) == "SavedModel":
        return None
    try:
        reader = tf_keras if keras_version(path).startswith("2.") else keras
        return reader.models.load_model(path, compile=False)  # serving needs no optimizer
    except Exception as error:
        raise TutorialError(
            f"{path} cannot be read as a Keras model: {_first_line(error)}"
        ) from error


def float_signature(model: KerasModel) -> Callable:
    """Return the model's prediction as a function with a named input and a named output.

    The input has the name of the model's input, the output that of its last layer.
    """
    if len(model.inputs or []) != 1 or len(model.outputs) != 1:
        raise TutorialError("this tutorial serves models with one input and one output")
    shape, name, result = model.inputs[0].shape, model.inputs[0].name, model.layers[-1].name

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name=name)])
    def serving_default(images):
        return {result: model(images, training=False)}

    return serving_default


def uint8_signature(serving_default: Callable, scale: Callable) -> Callable | None:
    """Return a function for unscaled pixels, which scales them and calls `serving_default`.

    Args:
        serving_default: The function for scaled pixels.
        scale: The preprocessing: float32 pixels (0 to 255) to what the model takes.

    Returns:
        None if TensorFlow cannot trace `scale`.
    """
    [spec] = serving_default.input_signature
    pixels_spec = tf.TensorSpec(spec.shape, tf.uint8, name=spec.name)

    @tf.function(input_signature=[pixels_spec], autograph=False)
    def serving_uint8(pixels):
        return serving_default(scale(tf.cast(pixels, tf.float32)))

    try:
        serving_uint8.get_concrete_function()
    except TypeError:
        return None
    return serving_uint8


def save_model(model: KerasModel, signatures: dict, folder: Path) -> None:
    """Save the weights of `model` and the `signatures` (name -> function) as a SavedModel.

    Keras 3 wraps each TensorFlow variable in one of its own. TensorFlow Serving needs the variable
    itself.
    """
    weights = tf.Module()
    weights.all = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
    tf.saved_model.save(weights, folder, signatures=signatures)


def open_saved_model(folder: Path) -> dict[str, Callable]:
    """Load a SavedModel; return its signatures by name. Raises TutorialError if that fails."""
    try:
        return dict(tf.saved_model.load(folder, tags=["serve"]).signatures)
    except Exception as error:
        raise TutorialError(f"the SavedModel cannot be read: {_first_line(error)}") from error


def read_signature(
    functions: dict[str, Callable], name: str, labels: list[str], dtype: str = "float32"
) -> SavedSignature:
    """Return the signature `name` of a SavedModel's `functions`.

    Raises TutorialError unless it takes images of `dtype` with three channels and has one output
    with a score for each label.
    """
    if name not in functions:
        found = ", ".join(functions) or "none"
        raise TutorialError(f"the SavedModel has no signature {name!r}; it has: {found}")
    inputs = functions[name].structured_input_signature[1]
    if len(inputs) != 1:
        raise TutorialError(f"{name} has {len(inputs)} inputs: an image can only feed one")
    [(input_name, image)] = inputs.items()
    shape = tuple(image.shape.as_list()[1:])
    if len(shape) != 3 or None in shape or shape[2] != 3:
        raise TutorialError(f"{input_name} has shape {shape}; supported: (height, width, 3)")
    if image.dtype != dtype:
        raise TutorialError(f"{input_name} has dtype {image.dtype.name}; supported: {dtype}")
    outputs = functions[name].structured_outputs.items()
    shapes = {key: spec.shape.as_list() for key, spec in outputs}
    fitting = [key for key, each in shapes.items() if each[1:] == [len(labels)]]
    if len(fitting) != 1:
        raise TutorialError(
            f"{len(labels)} labels need one output of that width; there is {shapes}"
        )
    return SavedSignature(functions[name], name, dtype, input_name, shape, fitting[0])


def check_scores(signature: SavedSignature, model: KerasModel | None) -> np.ndarray:
    """Return the scores of random images; raise TutorialError if `model` gives other scores."""
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (IMAGES, *signature.image_shape)).astype("float32")
    scores = signature(images)
    if model is not None:
        _compare(scores, np.asarray(model(images, training=False)), TOLERANCE)
    return scores


def check_uint8_scores(uint8: SavedSignature, signature: SavedSignature, scale: Callable) -> None:
    """Raise TutorialError if both signatures do not give the same scores for the same pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, *uint8.image_shape), np.uint8)
    _compare(uint8(pixels), signature(scale(pixels.astype("float32"))), UINT8_TOLERANCE)


def _compare(scores: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    if not np.allclose(scores, expected, rtol=tolerance, atol=tolerance):
        most = abs(scores - expected).max()
        raise TutorialError(f"the conversion changed the scores by up to {most:.2g}")


def kind_of_scores(scores: np.ndarray) -> str:
    """Return "probabilities" if each row adds up to 1, otherwise "logits"."""
    sums_to_one = np.allclose(scores.sum(axis=1), 1, atol=1e-3) and (scores >= 0).all()
    return "probabilities" if sums_to_one else "logits"


def write_warmup(folder: Path, model_name: str, signatures: list[SavedSignature]) -> Path:
    """Write one request with a black image for each signature, which the server runs at start."""
    path = folder / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature in signatures:
            black = np.zeros((1, *signature.image_shape), signature.dtype)
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature.name
            request.inputs[signature.input_name].CopyFrom(tf.make_tensor_proto(black))
            log = prediction_log_pb2.PredictLog(request=request)
            writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())
    return path


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
