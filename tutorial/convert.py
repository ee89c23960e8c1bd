"""Convert a model into the folder that TensorFlow Serving serves.

`read_model.load_model` has read it. Lesson 01 calls these functions in this order:

1. `float_signature` and `uint8_signature` make the signatures, and `save_model` writes them.
2. `read_signature` reads what was saved.
3. `check_scores` and `check_uint8_scores` compare its scores with those of the Keras model, and
   `check_as_served` does so the way a server loads it.
4. `kind_of_scores` finds out what the scores mean.
5. `write_warmup` adds the requests that the server runs at its start.

`model_folder.publish` then moves the result to models/ and writes its contract.
"""

import keyword
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from tutorial import TutorialError
from tutorial.read_model import (
    KerasModel,
    SavedFunction,
    all_layers,
    find_signature,
    first_line,
)
from tutorial.sources import EXPORT

TOLERANCE = 1e-4  # of a score, relative to the largest score of its image
IMAGES = 4  # that are compared
COLOURS = (1, 3, 4)  # grey, RGB, RGB with transparency
KINDS = {  # of scores, by the operation that gives them
    "Softmax": "probabilities",
    "Sigmoid": "independent",
    **dict.fromkeys(("BiasAdd", "MatMul", "LogSoftmax"), "logits"),
}
UNCHANGED = ("Identity", "IdentityN", "Cast", "Reshape", "Squeeze")  # operations after that


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


def float_signature(
    model: KerasModel | SavedFunction, *, output: str = "", size: str = ""
) -> Callable:
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
    name = _legal_name(inputs[0].name)
    spec = tf.TensorSpec(_picture_shape(inputs[0], size), tf.float32, name=name)

    @tf.function(input_signature=[spec], autograph=False)
    def serving_default(images):
        found = call_model(model, images)
        if output and output not in found:
            raise TutorialError(f"there is no output {output!r}, only: {', '.join(found)}")
        return {_legal_name(key): found[key] for key in ([output] if output else found)}

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


def call_model(model: KerasModel | SavedFunction, images: tf.Tensor) -> dict[str, tf.Tensor]:
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
    outputs = [(name, scores) for name, scores in outputs if scores.dtype != tf.string]
    names = [_legal_name(name) for name, _ in outputs]
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
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)?", size):
            raise TutorialError(f"SIZE={size} is not like 224, or 224x160 (height x width)")
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


def save_model(model: KerasModel | SavedFunction, signatures: dict, folder: Path) -> None:
    """Save the weights of `model` and the `signatures` (name -> function) as a SavedModel.

    Keras 3 wraps each TensorFlow variable in one of its own. TensorFlow Serving needs the variable
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


def read_signature(
    functions: dict[str, Callable], name: str, labels: list[str], dtype: str = "float32"
) -> SavedSignature:
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
    return SavedSignature(function, name, dtype, input_name, shape, fitting[0], width)


def random_pixels(signature: SavedSignature) -> np.ndarray:
    """Return IMAGES pictures as bytes, of the size that the signature takes."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *signature.image_shape), np.uint8)


def check_scores(
    signature: SavedSignature, model: KerasModel | SavedFunction, scale: Callable
) -> np.ndarray:
    """Return the scores of random pictures, scaled by `scale`.

    Raises TutorialError if `model` gives other scores, or none.
    """
    images = scale(random_pixels(signature).astype("float32"))

    def predict() -> np.ndarray:
        outputs = {_legal_name(key): value for key, value in call_model(model, images).items()}
        return outputs[signature.output_name].numpy()

    try:
        expected, again = predict(), predict()
    except tf.errors.OpError as error:
        raise TutorialError(
            f"the model does not run with {IMAGES} pictures at once. Build it without a fixed batch"
            " size, and save that"
        ) from error
    try:
        scores = signature(images)
    except tf.errors.OpError as error:
        raise TutorialError(
            "the converted model does not run. If it is one of TensorFlow 1, build it with Keras,"
            " load its weights, and save that"
        ) from error
    if (abs(expected - again).max(axis=1) > TOLERANCE * abs(expected).max(axis=1)).any():
        raise TutorialError(
            "the model gives other scores each time: one of its layers, such as Dropout, is called"
            " with training=True. Build it without that, and save it again"
        )
    if not np.isfinite(expected).all():
        raise TutorialError(
            "the model itself gives NaN or infinity for random pictures. Does model.predict, too?"
            " Then its training went wrong. If not, check PREPROCESSING"
        )
    _compare(scores, expected)
    return scores


def check_uint8_scores(uint8: SavedSignature, signature: SavedSignature, scale: Callable) -> None:
    """Raise TutorialError if both signatures do not give the same scores for the same pixels."""
    pixels = random_pixels(uint8)
    _compare(uint8(pixels), signature(scale(pixels.astype("float32"))))


def check_as_served(folder: Path, signature: SavedSignature) -> None:
    """Raise TutorialError if the folder does not give the same scores the way servers load it.

    TensorFlow Serving runs a session. It can miss variables that Python's loader finds.
    """
    images = np.zeros((IMAGES, *signature.image_shape), signature.dtype)
    load = tf.compat.v1.saved_model.loader.load
    with _native_stderr_muted(), tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            definition = load(session, ["serve"], str(folder)).signature_def[signature.name]
            output = definition.outputs[signature.output_name].name
            scores = session.run(output, {definition.inputs[signature.input_name].name: images})
        except Exception as error:
            raise TutorialError(
                f"a server cannot run the SavedModel: {first_line(error)}. {EXPORT}"
            ) from error
    _compare(scores, signature(images))


@contextmanager
def _native_stderr_muted() -> Iterator[None]:
    """Hide a line that the first session logs, whatever TF_CPP_MIN_LOG_LEVEL says."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _compare(scores: np.ndarray, expected: np.ndarray) -> None:
    difference = abs(scores - expected).max(axis=1)
    if not (difference <= TOLERANCE * abs(expected).max(axis=1)).all():
        raise TutorialError(f"the conversion changed the scores by up to {difference.max():.2g}")


def kind_of_scores(signature: SavedSignature, labels: list[str], chosen: str = "") -> str:
    """Return how the scores are to be read: "probabilities", "independent" or "logits".

    The operation that computes them says it: a softmax, a sigmoid, or the sum of a layer. After
    any other, the scores of many images say it: logits leave 0 to 1, probabilities add up to 1.
    Sums of probabilities do that too, and several softmaxes side by side do not. Percentages have
    a larger sum, the same for all images.

    Raises TutorialError where that does not help and nothing is `chosen`, where something else is
    chosen, and for one output that says nothing about its label.
    """
    kind, seen = KINDS.get(last_operation(signature)), _kind_of_values(signature)
    if seen == "percentages":
        if not kind and chosen != "logits":
            raise TutorialError(
                "the scores of all pictures have the same sum, more than 1, as percentages have."
                " Add Rescaling(1 / 100) as last layer, so that they are probabilities, or set"
                " SCORES=logits if a softmax is still to come"
            )
        seen = "logits"
    if not kind or (seen == "probabilities" and kind == "logits"):
        kind = seen or chosen
    elif kind == "probabilities" != seen:  # several softmaxes side by side
        kind = chosen
    if not kind:
        raise TutorialError(
            "the model does not show what its scores mean: set SCORES=independent if each is a"
            " probability of its own, or SCORES=logits if a softmax is still to come"
        )
    if chosen not in ("", kind):
        advice = ". Put Activation('sigmoid') behind its last layer" * (chosen == "independent")
        raise TutorialError(f"SCORES={chosen} is wrong: this model gives {kind}{advice}")
    if kind == "probabilities" and signature.outputs == 1:
        raise TutorialError(
            "the model's softmax has one output, so it is always 1: train a sigmoid"
        )
    if len(labels) == 1 and kind == "logits":
        raise TutorialError(
            f"one logit decides between two classes: name both, LABELS=other,{labels[0]}"
        )
    return kind


def last_operation(signature: SavedSignature) -> str:
    """Return the type of the operation that computes the scores, for example "Softmax"."""
    function = signature.function
    graph = function.graph.as_graph_def()
    bodies = {body.signature.name: body for body in graph.library.function}
    nodes = {node.name: node for node in graph.node}
    tensor = function.outputs[sorted(function.structured_outputs).index(signature.output_name)].name
    while True:
        name, _, place = tensor.partition(":")  # "name", "name:1" or, in a function, "name:y:1"
        number = int(place.rpartition(":")[2] or 0)
        node = nodes.get(name)
        if node is None:  # the input
            return ""
        if node.op.endswith("PartitionedCall"):
            body = bodies[node.attr["f"].func.name]
            nodes = {each.name: each for each in body.node_def}
            tensor = body.ret[body.signature.output_arg[number].name]
        elif node.op in UNCHANGED:
            tensor = node.input[number]
        else:
            return node.op


def _kind_of_values(signature: SavedSignature) -> str:
    images = np.random.default_rng(0).uniform(-1, 1, (IMAGES, *signature.image_shape))
    scales = [1, 10, 1e3, 1e5]  # far from the values of training, too
    scores = np.concatenate([signature((scale * images).astype("float32")) for scale in scales])
    scores = scores[np.isfinite(scores).all(axis=1)]
    sums = scores.sum(axis=1)
    if scores.min(initial=0) < -1e-3:
        return "logits"
    if scores.max(initial=1) > 1 + 1e-3:
        same = len(sums) > IMAGES and np.ptp(sums) < 0.02 * sums.min()
        return "percentages" if same else "logits"
    return "probabilities" if np.allclose(sums, 1, atol=0.02) else ""


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
