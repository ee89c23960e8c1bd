"""Check that a converted model gives the model's own scores, and find out what they mean."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tensorflow as tf

from tutorial import TutorialError
from tutorial.convert import call_model
from tutorial.read_model import Model, SavedSignature, first_line
from tutorial.sources import EXPORT

TOLERANCE = 1e-4  # of a score, relative to the largest score of its image
IMAGES = 4  # that are compared
KINDS = {  # of scores, by the operation that gives them
    "Softmax": "probabilities",
    "Sigmoid": "independent",
    **dict.fromkeys(("BiasAdd", "MatMul", "LogSoftmax"), "logits"),
}
UNCHANGED = ("Identity", "IdentityN", "Cast", "Reshape", "Squeeze")  # operations after that


def random_pixels(signature: SavedSignature) -> np.ndarray:
    """Return IMAGES pictures as bytes, of the size that the signature takes."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *signature.image_shape), np.uint8)


def check_scores(signature: SavedSignature, model: Model, scale: Callable) -> np.ndarray:
    """Return the scores of random pictures, scaled by `scale`.

    Raises TutorialError if `model` gives other scores, or none.
    """
    images = scale(random_pixels(signature).astype("float32"))

    try:
        expected = call_model(model, images)[signature.output_name].numpy()
        again = call_model(model, images)[signature.output_name].numpy()
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
    compare_scores(scores, expected)
    return scores


def check_uint8_scores(uint8: SavedSignature, signature: SavedSignature, scale: Callable) -> None:
    """Raise TutorialError if both signatures do not give the same scores for the same pixels."""
    pixels = random_pixels(uint8)
    compare_scores(uint8(pixels), signature(scale(pixels.astype("float32"))))


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
    compare_scores(scores, signature(images))


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


def compare_scores(scores: np.ndarray, expected: np.ndarray) -> None:
    """Raise TutorialError if a score of an image (a row) is not what was expected."""
    difference = abs(scores - expected).max(axis=1)
    if not (difference <= TOLERANCE * abs(expected).max(axis=1)).all():
        raise TutorialError(f"the conversion changed the scores by up to {difference.max():.2g}")


def kind_of_scores(signature: SavedSignature, labels: list[str], chosen: str = "") -> str:
    """Return what the scores are: "probabilities", "independent" or "logits".

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
            " separate probability, or SCORES=logits if a softmax is still to come"
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
