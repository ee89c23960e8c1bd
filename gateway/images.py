"""Turn a picture file into the array of pixels that a model takes.

Exported from notebooks/04-prepare-images.ipynb: change the notebook, then run `make export`.
"""

import numpy as np
from PIL import Image, ImageOps

from gateway.deadline import Deadline
from gateway.decode_slots import SLOTS, slots_needed
from gateway.errors import MAX_PIXELS
from gateway.picture_limits import CountedFile, check_limits, freed, picture_errors, what_is_wrong
from gateway.resizing import convert, interpolate, scale_transparency

MUCH_LARGER = 4  # a photo whose sides are 4 times the model's, or more


def open_picture(data: bytes) -> Image.Image:
    """Return the picture in a file, with its header read and its pixels not yet decoded.

    Raises ImageError if the file is no picture, or too costly to decode.
    """
    file = CountedFile(data)
    with picture_errors(what_is_wrong(data)):
        image = Image.open(file, formats=tuple(MAX_PIXELS))
    check_limits(image, file)
    scale_transparency(image)
    return image


def decode(image: Image.Image) -> Image.Image:
    """Decode an opened picture and turn it upright. Raises ImageError if it is damaged."""
    with picture_errors():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    return image


def resize(
    image: Image.Image, size: tuple[int, int], how: str = "nearest", colours: int = 3
) -> np.ndarray:
    """Return pixels of shape (1, height, width, colours), for a `size` (height, width).

    `how` is a contract's `resize`. The pixels are uint8 for "nearest", else float32.
    """
    if how != "nearest":
        return interpolate(image, size, how, colours)[np.newaxis]
    small = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(convert(small, colours)).reshape(1, *size, colours)


def decode_small(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Decode a JPEG much larger than `size` at a quarter or an eighth, and average it.

    Decode any other picture whole. `size` is (height, width). Raises ImageError as `decode`.
    """
    side = max(size)  # the picture may be turned later, so take the longer side
    if min(image.size) >= MUCH_LARGER * side and image.draft(None, (side, side)):
        return decode(image).resize((size[1], size[0]), Image.Resampling.BOX)
    return decode(image)


def decode_and_resize(
    data: bytes,
    size: tuple[int, int],
    deadline: Deadline,
    *,
    how: str = "nearest",
    colours: int = 3,
    shrink: bool = True,
) -> np.ndarray:
    """Return a picture file's pixels as `resize` does, decoded by `decode_small` if `shrink`.

    Raises ImageError as `open_picture`, BusyError or DeadlineError if no slot becomes free.
    """
    for slots in (1, 2):  # opened again, with both slots, if it is very large
        with SLOTS.take(slots, deadline), freed(open_picture(data)) as image:
            if slots_needed(image) <= slots:
                decoded = decode_small(image, size) if shrink else decode(image)
                return resize(decoded, size, how, colours)
