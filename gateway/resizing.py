"""Resize pictures as tf.image.resize does, without TensorFlow.

Pillow's filters of the same names also average when a picture shrinks. Keras's
image_dataset_from_directory does not, so a model was trained on other pixels.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

RESIZES = ("nearest", "bilinear", "bicubic", "area")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by the number of colours
# What Pillow multiplies the pixels of such a PNG by. It does not do so with the transparent colour.
PIXEL_SCALES = {"L;2": 255 / 3, "L;4": 255 / 15, "RGB;16B": 1 / 256}


def weights(size: int, new: int, how: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield, for each of `new` pixels, the first of the `size` old pixels it mixes, and weights."""
    scale = np.float32(size) / np.float32(new)
    for pixel in np.arange(new, dtype=np.float32):
        if how == "area":
            start, end = pixel * scale, (pixel + 1) * scale
            old = np.arange(int(start), np.ceil(end))
            shares = np.minimum(old + 1, end) - np.maximum(old, start)
        else:
            centre = (pixel + np.float32(0.5)) * scale - np.float32(0.5)
            old = np.floor(centre) + np.arange(-1, 3)
            shares = (bilinear if how == "bilinear" else bicubic)(old - centre)
        inside = (old >= 0) & (old < size)
        shares = shares[inside] / shares[inside].sum()
        yield int(old[inside][0]), shares.astype(np.float32)


def bilinear(distance: np.ndarray) -> np.ndarray:
    """Return how much pixels at a `distance` count, in pixels."""
    return np.maximum(0, 1 - abs(distance))


def bicubic(distance: np.ndarray) -> np.ndarray:
    """Return how much pixels at a `distance` count, to 1/1024 as TensorFlow's table has it."""
    x = abs(np.rint(distance * 1024) / 1024)
    return np.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2)


def scale_transparency(image: Image.Image) -> None:
    """Give the transparent colour of an opened PNG the scale that its pixels will have."""
    colour = image.info.get("transparency")
    if image.format != "PNG" or not image.tile or colour is None:
        return
    if scale := PIXEL_SCALES.get(image.tile[0].args):
        scaled = (np.atleast_1d(colour) * scale).astype(int).tolist()
        image.info["transparency"] = tuple(scaled) if len(scaled) > 1 else scaled[0]


def upper_bits(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as 8-bit grey. Pillow would clip it to white."""
    pixels, transparent = np.asarray(image), image.info.get("transparency")
    grey = Image.fromarray((pixels >> 8).astype(np.uint8))
    if transparent is not None:
        grey.putalpha(Image.fromarray(pixels != transparent).convert("L"))
    return grey


def convert(image: Image.Image, colours: int) -> Image.Image:
    """Return an image with that many colours; without a fourth, what is transparent is white."""
    if image.mode.startswith("I;16"):
        image = upper_bits(image)
    if colours < 4 and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == MODES[colours] else image.convert(MODES[colours])


def interpolate(image: Image.Image, size: tuple[int, int], how: str, colours: int) -> np.ndarray:
    """Return pixels, float32 of shape (height, width, colours), for a `size` (height, width).

    Only the rows that one new row needs are converted at a time, so a large picture takes no
    second copy.
    """
    rows = []
    for top, shares in weights(image.height, size[0], how):
        strip = convert(image.crop((0, top, image.width, top + len(shares))), colours)
        pixels = np.asarray(strip, np.float32).reshape(len(shares), image.width, colours)
        rows.append(np.tensordot(shares, pixels, 1))
    columns = np.stack(rows, axis=1)  # (old width, height, colours)
    parts = weights(image.width, size[1], how)
    mixed = [np.tensordot(each, columns[left : left + len(each)], 1) for left, each in parts]
    return np.stack(mixed, axis=1)
