"""Convert a model into the folder that TensorFlow Serving serves.

Lesson 01 calls the functions of three modules in this order:

1. `read_model.load_model` reads the model's file.
2. `convert.float_signature` and `convert.uint8_signature` make the signatures, and
   `convert.save_model` writes them.
3. `read_model.read_signature` reads what was saved.
4. `verify.check_scores` and `verify.check_uint8_scores` compare its scores with those of the Keras
   model, and `verify.check_as_served` does so the way a server loads it.
5. `verify.kind_of_scores` finds out what the scores mean.
6. `convert.write_warmup` adds the requests that the server runs at its start.

`model_folder.publish` then moves the result to models/ and writes its contract.
"""

import keyword
import re
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tutorial import TutorialError
from tutorial.read_model import Model, SavedFunction, SavedSignature, all_layers, first_line
from tutorial.sources import EXPORT

COLOURS = (1, 3, 4)  # grey, RGB, RGB with transparency


def float_signature(model: Model, *, output: str = "", size: str = "") -> Callable:
    """Return the model's prediction as a function with a named input and named outputs.

    The input has the name of the model's input, an output that of its layer. Pictures are float32
    of shape (N, height, width, colours), and scores float32, whatever the model takes and gives.

    Args:
        model: The model.
        output: The only output to return; "" for all.
        size: Pixels a side, such as "224" or "224x160" (height x width), if the model says none.
    """
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none
    if len(inputs) != 1:
        names = ", ".join(each.name for each in inputs)
        if isinstance(model, (keras.Sequential, tf_keras.Sequential)):
            raise TutorialError(
                "the model was saved before it was built, so it has no weights. Train it, or call"
                " it on a picture, and save it then"
            )
        if not names:
            raise TutorialError(f"the model does not say what it takes. {EXPORT}")
        raise TutorialError(
            f"a picture can feed one input, but the model has {len(inputs)}: {names}. Build a model"
            " with one input around it, and save that"
        )
    spec = tf.TensorSpec(_picture_shape(inputs[0], size), tf.float32, _legal_name(inputs[0].name))

    @tf.function(input_signature=[spec], autograph=False)
    def serving_default(images):
        found = call_model(model, images)
        if not output:
            return found
        name = _legal_name(output)
        if name not in found:
            raise TutorialError(f"there is no output {output!r}, only: {', '.join(found)}")
        return {name: found[name]}

    try:
        serving_default.get_concrete_function()
    except TutorialError:
        raise
    except Exception as error:
        if scope := re.search(r"'(.+)' is not a valid (root )?scope name", str(error)):
            raise TutorialError(
                f"TensorFlow does not take {scope[1].strip('/')!r} as a layer's name. Give the"
                " layer a name of A-Z, a-z, 0-9 and _ where you build the model, and save it again"
            ) from error
        raise TutorialError(
            f"the model does not take pictures of shape {spec.shape[1:]}: {first_line(error)}"
        ) from error
    return serving_default


def call_model(model: Model, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return the model's outputs by name, as float32, for `images` (N, height, width, colours).

    Sides of one pixel are removed: (N, 1, 1, labels) becomes (N, labels).
    """
    wanted = model.inputs[0]
    if _channels_first(wanted.shape):
        images = tf.transpose(images, [0, 3, 1, 2])
    dtype = tf.as_dtype(wanted.dtype)
    images = tf.cast(tf.round(images) if dtype.is_integer else images, dtype)
    result = model(images, training=False)
    if isinstance(result, (list, tuple)):
        outputs = list(zip(model.output_names, result, strict=False))
    elif isinstance(result, dict):
        outputs = list(result.items())
    else:
        names = getattr(model, "output_names", None)  # Keras 3's Sequential has none
        outputs = [(names[0] if names else model.layers[-1].name, result)]
    if any(isinstance(scores, (list, tuple, dict)) for _, scores in outputs):
        raise TutorialError(
            "the model's outputs are lists or dicts inside another one. Build a model around it"
            " that has the one you want, and save that"
        )
    outputs = [(_legal_name(name), scores) for name, scores in outputs if scores.dtype != tf.string]
    names = [name for name, _ in outputs]
    if len(set(names)) < len(names):
        raise TutorialError(
            f"two outputs have the same name: {', '.join(names)}. Build a model around it that has"
            " the one you want, and save that"
        )
    return {name: _flat(tf.cast(scores, tf.float32)) for name, scores in outputs}


def _flat(scores: tf.Tensor) -> tf.Tensor:
    if not scores.shape.rank or scores.shape.rank < 3:
        return scores
    sides = [side for side in scores.shape[1:] if side != 1] or [1]
    return tf.reshape(scores, (-1, *sides)) if len(sides) == 1 and sides[0] else scores


def _channels_first(shape: tuple[int | None, ...]) -> bool:
    return shape[1] in COLOURS and shape[3] not in COLOURS


def _picture_shape(image: object, size: str) -> tuple[int | None, ...]:
    if tf.TensorShape(image.shape).rank != 4:
        raise TutorialError(
            f"{image.name} has shape {image.shape}: it takes no pictures. Build a model around it"
            " that takes (batch, height, width, colours), and save that"
        )
    shape = (None, *image.shape[1:])  # a server chooses the batch
    if _channels_first(shape):
        shape = (None, *shape[2:], shape[1])
    if size:
        sides = [int(side) for side in size.split("x")]
        height, width = shape[1] or sides[0], shape[2] or sides[-1]
        if [height, width] != [sides[0], sides[-1]]:
            raise TutorialError(
                f"SIZE={size} does not fit: the model takes {height}x{width} (height x width)."
                " Leave SIZE out"
            )
        shape = (None, height, width, shape[3])
    if shape[3] not in COLOURS or None in shape[1:]:
        raise TutorialError(
            f"{image.name} has shape {shape}; supported: (batch, height, width, colours) with 1, 3"
            " or 4 colours. If height or width is None, set SIZE=224, or SIZE=224x160 (height x"
            " width)"
        )
    return shape


def _legal_name(name: str) -> str:
    """Return a name that TensorFlow does not change or refuse."""
    legal = re.sub(r"\W", "_", name, flags=re.ASCII)
    usual = legal.isidentifier() and not legal.startswith("_") and not keyword.iskeyword(legal)
    return legal if usual else f"x_{legal}"


def uint8_signature(serving_default: Callable, scale: Callable) -> Callable:
    """Return a function for unscaled pixels, which scales them and calls `serving_default`.

    Args:
        serving_default: The function for scaled pixels.
        scale: The preprocessing: float32 pixels (0 to 255) to what the model takes.
    """
    [spec] = serving_default.input_signature
    pixels_spec = tf.TensorSpec(spec.shape, tf.uint8, name=spec.name)

    @tf.function(input_signature=[pixels_spec], autograph=False)
    def serving_uint8(pixels):
        return serving_default(scale(tf.cast(pixels, tf.float32)))

    try:
        serving_uint8.get_concrete_function()
    except (TypeError, ValueError) as error:
        raise TutorialError(
            f"this PREPROCESSING does not fit pictures of {spec.shape[3]} colours"
        ) from error
    return serving_uint8


def save_model(model: Model, signatures: dict, folder: Path) -> None:
    """Save the weights of `model` and the `signatures` (name -> function) as a SavedModel.

    Keras 3 wraps each TensorFlow variable in an object. TensorFlow Serving needs the variable
    itself.
    """
    weights = tf.Module()
    if isinstance(model, SavedFunction):
        weights.all = model.loaded
    else:
        weights.all = [v if isinstance(v, tf.Variable) else v.value for v in model.variables]
        weights.tables = [getattr(layer, "lookup_table", None) for layer in all_layers(model)]
    try:
        tf.saved_model.save(weights, folder, signatures=signatures)
    except Exception as error:
        raise TutorialError(f"the model cannot be saved: {first_line(error)}") from error


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
