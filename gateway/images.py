"""Decode a picture that a stranger sent, and make it the array that a model was trained on.

Exported from notebooks/04-prepare-images.ipynb: change the notebook, then run `make export`.
"""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
from keras_image_helper import create_preprocessor
from PIL import Image, ImageOps

MAX_BYTES = 10 * 2**20  # of a file, as fetched or uploaded
MAX_SIDE = 12_000  # pixels
MAX_PIXELS = {  # of a decoded picture, by the formats that are read
    "JPEG": 25_000_000,  # 4 bytes a pixel, up to 12 while a progressive one is decoded
    "PNG": 25_000_000,
    "WEBP": 15_000_000,  # 16 bytes a pixel
    "GIF": 25_000_000,
    "BMP": 25_000_000,
}


class ImageError(ValueError):
    """A picture that cannot be used; the message tells whoever sent it why."""

    index: int | None = None  # of the picture, where several came


class BusyError(Exception):
    """Nothing is wrong with the picture, but too many others are being decoded."""


MAX_SCANS = 50  # layers of a progressive JPEG; 10 are usual
MAX_SCANNED = 500_000_000  # pixels, each counted once for every scan: about half a second of work
MAX_PIECES = 100_000  # of which a file may be made
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
SCAN, END = 0xDA, 0xD9


class PiecesError(ImageError):
    """A file made of so many pieces that reading them is all there is to do."""

    def __init__(self) -> None:
        super().__init__("the file is cut into too many pieces: save the picture anew")


def count_scans(data: bytes) -> int:
    """The scans of a JPEG file up to its end marker: what follows is not decoded."""
    scans, position = 0, 2
    for _ in range(MAX_PIECES):
        match = MARKER.search(data, position)
        if not match or match[1][0] == END:
            return scans
        scans += match[1][0] == SCAN
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    raise PiecesError


class CountedFile(BytesIO):
    """A file in memory that a decoder may read in at most MAX_PIECES pieces."""

    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """As BytesIO; raises PiecesError after too many calls."""
        self.reads += 1
        if self.reads > MAX_PIECES:
            raise PiecesError
        return super().read(size)


@contextmanager
def _blaming_the_file() -> Iterator[None]:
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("the picture has too many pixels: send a smaller one") from error
    except Exception as error:
        raise ImageError(
            f"this is not a whole picture of a known kind ({', '.join(MAX_PIXELS)})"
        ) from error


def _limit(image: Image.Image) -> int:
    return MAX_PIXELS.get(image.format, MAX_PIXELS["JPEG"])  # Pillow knows several kinds of JPEG


def open_picture(data: bytes) -> Image.Image:
    """A picture file that is within all limits; its pixels are not decoded yet.

    Raises ImageError for what is no picture, or has too many bytes, pixels or scans.
    """
    if len(data) > MAX_BYTES:
        raise ImageError(f"the file is larger than {MAX_BYTES >> 20} MB")
    with _blaming_the_file():
        image = Image.open(CountedFile(data), formats=tuple(MAX_PIXELS))
    pixels, limit = image.width * image.height, _limit(image)
    if pixels > limit or max(image.size) > MAX_SIDE:
        raise ImageError(
            f"the picture has {image.width} x {image.height} pixels: send at most"
            f" {limit // 10**6} million, and {MAX_SIDE} a side"
        )
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(data)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise ImageError(f"the picture is stored in {scans} layers: save it anew with fewer")
    return image


def load(image: Image.Image) -> Image.Image:
    """The same picture, decoded and upright. Raises ImageError where it is damaged or not whole."""
    with _blaming_the_file():
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
    return image


def decode(data: bytes) -> Image.Image:
    """The first frame of a picture file, upright, in whatever mode the file has.

    Raises ImageError as `open_picture` and `load`.
    """
    return load(open_picture(data))


def resize(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixels, RGB: uint8 of shape (1, height, width, 3); `size` is (height, width)."""
    if image.mode.startswith("I;16"):  # which Pillow would clip to white
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    # Small first, RGB after: the same pixels with a fraction of the memory.
    small = image.resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(small if small.mode == "RGB" else small.convert("RGB"))[np.newaxis]


SCALINGS = {"unit": lambda pixels: pixels / 255, "none": lambda pixels: pixels}


def scaling(preprocessing: str) -> Callable:
    """The function from float32 pixels, (N, height, width, 3) in 0…255, to what a model wants.

    It may work in place. `preprocessing` is a name of keras-image-helper, or "unit" or "none".
    """
    return create_preprocessor(SCALINGS.get(preprocessing, preprocessing), None).preprocess


def scale(pixels: np.ndarray, preprocessing: str) -> np.ndarray:
    """Pixels, uint8 of shape (N, height, width, 3), as a model was trained on them: float32.

    `preprocessing` as in `scaling`.
    """
    return np.ascontiguousarray(scaling(preprocessing)(pixels.astype(np.float32)), np.float32)


MUCH_LARGER = 4  # times as many pixels a side as the model takes: a JPEG is not decoded whole


def load_small(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A JPEG that is much larger than `size`, (height, width), decoded and averaged to that size.

    It is decoded at a half, a quarter or an eighth. Any other picture is left to `load`.
    """
    side = max(size)  # of either, since the picture may yet be turned upright
    if min(image.size) >= MUCH_LARGER * side and image.draft(None, (side, side)):
        return load(image).resize((size[1], size[0]), Image.Resampling.BOX)
    return load(image)


class Places:
    """A number of places that threads share."""

    def __init__(self, free: int) -> None:
        """Begin with all of them free."""
        self._free, self._changed = free, threading.Condition()

    @contextmanager
    def take(self, number: int, *, wait: float) -> Iterator[None]:
        """Hold this many; raises BusyError if they are not free within `wait` seconds."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= number, wait):
                raise BusyError
            self._free -= number
        try:
            yield
        finally:
            with self._changed:
                self._free += number
                self._changed.notify_all()


_places = Places(2)


def decode_and_resize(
    image: Image.Image, size: tuple[int, int], *, wait: float = 2.0
) -> np.ndarray:
    """What `resize` makes of an opened picture, decoded no larger than needed, two at once.

    Raises ImageError as `load`, and BusyError if there is no place within `wait` seconds.
    """
    large = image.width * image.height > _limit(image) / 2
    with _places.take(2 if large else 1, wait=wait):
        return resize(load_small(image, size), size)
