"""Fetch a picture, decode it, and make it the array that a model was trained on.

Exported from notebooks/04-prepare-images.ipynb: change the notebook, then run `make export`.
"""

import time
from io import BytesIO
from urllib.parse import urlsplit

import numpy as np
import requests
from keras_image_helper import create_preprocessor
from PIL import Image, ImageOps

MAX_BYTES = 10 * 2**20  # of a file, as fetched or uploaded
MAX_PIXELS = 25_000_000  # of a decoded picture: 75 MB of memory
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class ImageError(ValueError):
    """A picture that cannot be used; the message tells whoever sent it why."""


def fetch(url: str, *, timeout: float = 5.0) -> bytes:
    """Download a picture file of at most MAX_BYTES, within `timeout` seconds.

    Raises ImageError for an address that cannot be fetched, or an answer that is no use.
    """
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ImageError("the address must begin with http:// or https://")
        with requests.Session() as session:
            session.trust_env = False  # no proxies, no passwords from a .netrc file
            with session.get(url, stream=True, timeout=timeout) as answer:
                return _read(answer, timeout)
    except ImageError:
        raise
    except (requests.RequestException, ValueError) as error:  # ValueError: no address at all
        raise ImageError("the address could not be fetched") from error


def _read(answer: requests.Response, timeout: float) -> bytes:
    if answer.status_code != requests.codes.ok:
        raise ImageError(f"the address answered with status {answer.status_code}")
    body = bytearray()
    deadline = time.monotonic() + timeout
    for chunk in answer.iter_content(64 * 1024):
        body += chunk
        if len(body) > MAX_BYTES:
            raise ImageError(f"the file is larger than {MAX_BYTES >> 20} MB")
        if time.monotonic() > deadline:
            raise ImageError(f"the download took longer than {timeout:g} seconds")
    return bytes(body)


def decode(data: bytes) -> Image.Image:
    """The first frame of a picture file, upright, in whatever mode the file has.

    Raises ImageError for what is no picture, is damaged, or has more than MAX_PIXELS.
    """
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(f"the picture has more than {MAX_PIXELS // 10**6} million pixels")
        return ImageOps.exif_transpose(image)  # loads the pixels, too
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ImageError(
            f"this is not a whole picture of a known kind ({', '.join(FORMATS)})"
        ) from error


SCALINGS = {"unit": lambda pixels: pixels / 255, "none": lambda pixels: pixels}


def prepare(image: Image.Image, size: tuple[int, int], preprocessing: str) -> np.ndarray:
    """A float32 batch of one, shape (1, height, width, 3), as the model was trained on.

    `size` is (height, width); `preprocessing` a name of keras-image-helper, or "unit" or "none".
    """
    target = (size[1], size[0])
    preprocessor = create_preprocessor(SCALINGS.get(preprocessing, preprocessing), target)
    if not image.mode.startswith("I;16"):  # which Pillow resizes with another rounding
        # Small first, RGB after: the same pixels with a fraction of the memory.
        image = image.resize(target, Image.Resampling.NEAREST)
    return np.ascontiguousarray(preprocessor.convert_to_tensor(image), dtype=np.float32)
