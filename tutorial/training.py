"""Read and augment photos, measure a trained classifier, and plot what was measured."""

from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from PIL import Image, ImageEnhance
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from gateway.deadline import Deadline
from gateway.images import decode_and_resize
from tutorial import TutorialError

SOURCE = "https://github.com/alexeygrigorev/clothing-dataset-small"
SIDE = 299  # pixels a side that the gateway sends: the input size of the course's Xception
BLUE, GREY = "#3068a8", "#b8bec6"
RESIZE_COST = 8  # floating-point operations a value of a bilinear resize; TensorFlow counts none


class Photos(NamedTuple):
    """Photos of one part of a data set, with the right answers."""

    paths: list[Path]
    pixels: np.ndarray  # (n, 299, 299, 3) uint8
    classes: np.ndarray  # (n,), the numbers of the right labels
    labels: list[str]


def read_photos(folder: Path) -> Photos:
    """Return the photos `folder`/LABEL/*.jpg, decoded and resized by the gateway's code.

    Raises TutorialError if there are none, ImageError if a file is damaged.
    """
    paths = sorted(folder.glob("*/*.jpg"))
    if not paths:
        raise TutorialError(
            f"no photos in {folder}. Run `git clone {SOURCE}`, and set DATA_DIR to its folder"
        )
    labels = sorted({path.parent.name for path in paths})
    pixels = np.empty((len(paths), SIDE, SIDE, 3), np.uint8)
    for photo, path in zip(pixels, paths, strict=True):
        photo[:] = decode_and_resize(path.read_bytes(), (SIDE, SIDE), Deadline.after(60))
    classes = np.array([labels.index(path.parent.name) for path in paths])
    return Photos(paths, pixels, classes, labels)


def count_flop(model) -> int:
    """Return the floating-point operations of `model` for one image, its resizes included.

    A multiplication and an addition count as two, as everywhere in TensorFlow.
    """
    spec = tf.TensorSpec((1, *model.input_shape[1:]))
    graph = convert_variables_to_constants_v2(tf.function(model).get_concrete_function(spec)).graph
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    counted = profiler.profile(graph, options=options).total_float_ops
    resizes = [op for op in graph.get_operations() if op.type == "ResizeBilinear"]
    return counted + RESIZE_COST * sum(op.outputs[0].shape.num_elements() for op in resizes)


def augment(rng: np.random.Generator, photo: np.ndarray) -> np.ndarray:
    """Return a random view of `photo` in random light, both (side, side, 3) uint8.

    The view is a crop of 30% to 100% of the area, enlarged to `side`, turned by up to 10 degrees
    and perhaps mirrored. Saturation, contrast, colour cast and brightness change as well.
    """
    side = photo.shape[0]
    area, aspect = rng.uniform(0.3, 1), np.exp(rng.uniform(-0.3, 0.3))
    width, height = np.minimum(np.sqrt([area * aspect, area / aspect]), 1)
    x, y = rng.uniform(width / 2, 1 - width / 2), rng.uniform(height / 2, 1 - height / 2)
    angle = np.radians(rng.uniform(-10, 10))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn * [width * rng.choice([-1, 1]), height]  # negative: mirrored
    offset = side * (np.array([x, y]) - matrix.sum(axis=1) / 2)
    affine = np.column_stack([matrix, offset]).ravel()
    kind, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    image = Image.fromarray(photo).transform((side, side), kind, affine, resample)

    image = ImageEnhance.Color(image).enhance(rng.uniform(0.5, 1.5))
    contrast = rng.uniform(0.7, 1.3) * rng.uniform(0.95, 1.05, (3, 1))
    table = (np.arange(256) - 127.5) * contrast + 127.5 + rng.uniform(-25, 25)
    return np.asarray(image.point(np.clip(table, 0, 255).astype(int).ravel().tolist()))


def mix(
    rng: np.random.Generator, images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return half of all batches as they are, the others with two photos in each picture.

    `images` is (n, side, side, 3) float32 and may be changed, `targets` (n, classes). Mixup
    (https://arxiv.org/abs/1710.09412) blends two photos, CutMix (https://arxiv.org/abs/1905.04899)
    pastes a square of one into the other. The targets are mixed in the same proportion.
    """
    order, kind = rng.permutation(len(images)), rng.uniform()
    if kind < 0.5:
        return images, targets
    if kind < 0.75:
        share = np.float32(rng.beta(0.4, 0.4))
        images = share * images + (1 - share) * images[order]
    else:
        side = int(images.shape[1] * np.sqrt(rng.uniform()))
        x, y = rng.integers(0, images.shape[1] - side + 1, 2)
        images[:, y : y + side, x : x + side] = images[order, y : y + side, x : x + side]
        share = 1 - (side / images.shape[1]) ** 2
    return images, share * targets + (1 - share) * targets[order]


def accuracy(logits: np.ndarray, classes: np.ndarray) -> float:
    """Return the share of rows of `logits` (n, classes) whose largest is that of the right class.

    `classes` (n,) are the right classes as numbers.
    """
    return float(np.mean(np.argmax(logits, axis=1) == classes))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, classes) that belong to `logits` (n, classes)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit_temperature(logits: np.ndarray, classes: np.ndarray) -> float:
    """Return the number by which to divide `logits` (n, classes) for honest probabilities.

    It gives the right `classes` (n,) the largest likelihood.
    """

    def log_loss(temperature: float) -> float:
        probabilities = softmax(logits / temperature)
        return -np.log(probabilities[np.arange(len(logits)), classes]).mean()

    return min(np.geomspace(0.2, 5, 200), key=log_loss)


def calibration(
    probabilities: np.ndarray, classes: np.ndarray, bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """Return the expected calibration error of the top answers, and what it is made of.

    `probabilities` is (n, classes), `classes` (n,) the right answers as numbers. The answers are
    sorted into `bins` equal ranges of probability; each range with any is given as (mean
    probability, share that is right, number of answers). The error is the mean gap between the
    first two, weighted by the third: 0.03 means that a stated 80% is 77% or 83% on average.
    """
    stated, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == classes
    numbers = np.minimum((stated * bins).astype(int), bins - 1)
    groups = [numbers == number for number in range(bins) if (numbers == number).any()]
    rows = [(float(stated[g].mean()), float(right[g].mean()), int(g.sum())) for g in groups]
    return sum(abs(mean - share) * count for mean, share, count in rows) / len(classes), rows


def confusion(predicted: np.ndarray, classes: np.ndarray, count: int) -> np.ndarray:
    """Return the (count, count) matrix: how many of each class (row) were taken for which."""
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (classes, predicted), 1)
    return matrix


def plot_curves(history: np.ndarray) -> Figure:
    """Return a plot of the columns loss, val_loss and val_accuracy, one row an epoch."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    epochs = range(1, len(history) + 1)
    left.plot(epochs, history["loss"], color=GREY, label="training photos, changed and mixed")
    left.plot(epochs, history["val_loss"], color=BLUE, label="held-out photos")
    left.set(title="Loss", xlabel="epoch")
    left.legend(frameon=False, fontsize=8)
    right.plot(epochs, history["val_accuracy"], color=BLUE)
    right.set(title="Held-out photos right", xlabel="epoch", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def plot_confusion(matrix: np.ndarray, labels: list[str]) -> Figure:
    """Return a picture of the confusion matrix, each row shaded by its share of the class."""
    figure, axes = plt.subplots(figsize=(6.4, 5.6), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(matrix):
        if number:
            ink = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, number, ha="center", va="center", color=ink)
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="the model says", ylabel="the photo shows")
    return figure


def plot_calibration(rows: list[tuple[float, float, int]]) -> Figure:
    """Return the plot of stated probability against the share that is right; see `calibration`."""
    figure, axes = plt.subplots(figsize=(4.2, 4), layout="constrained")
    stated, right, counts = zip(*rows, strict=True)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
    axes.plot(stated, right, color=BLUE)
    axes.scatter(stated, right, s=[20 + 3 * count for count in counts], color=BLUE, alpha=0.6)
    axes.set(xlabel="stated probability", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    return figure


def plot_pictures(pictures: list[np.ndarray | Image.Image], titles: list[str]) -> Figure:
    """Return the pictures in rows of six, each under its title."""
    rows = max(1, -(-len(pictures) // 6))
    figure, grid = plt.subplots(rows, 6, figsize=(10, 2 * rows), layout="constrained")
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, title in zip(grid.flat, pictures, titles, strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
    return figure
