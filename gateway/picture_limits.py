"""Check untrusted picture files before, and while, Pillow decodes them."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image

from gateway.errors import MAX_BYTES, MAX_PIXELS, MAX_SIDE, ImageError

MAX_SCANS = 50  # layers of a progressive JPEG; 10 are usual
MAX_SCANNED = 500_000_000  # pixels times scans, which take about half a second to decode
MAX_PIECES = 100_000  # of which a file may consist
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
SCAN, END = 0xDA, 0xD9
TOO_MANY_PIECES = "the file is cut into too many pieces: save the picture again"


class CountedFile(BytesIO):
    """Hold a picture file in memory, and let a decoder read at most MAX_PIECES times."""

    reads = 0

    def __init__(self, data: bytes) -> None:
        """Take a file's content. Raises ImageError if it is larger than MAX_BYTES."""
        if len(data) > MAX_BYTES:
            raise ImageError(f"the file is larger than {MAX_BYTES >> 20} MB")
        super().__init__(data)

    def read(self, size: int | None = -1) -> bytes:
        """Read as BytesIO does. Raises ImageError after MAX_PIECES calls."""
        self.reads += 1
        if self.reads > MAX_PIECES:
            raise ImageError(TOO_MANY_PIECES)
        return super().read(size)


@contextmanager
def picture_errors() -> Iterator[None]:
    """Turn whatever a decoder raises into an ImageError: a broken file is the client's to fix."""
    try:
        yield
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError("the picture has too many pixels: send a smaller one") from error
    except Exception as error:
        # The traceback would keep the decoder and its pixels, up to 100 MB, until the answer.
        traceback.clear_frames(error.__traceback__)
        raise ImageError(
            f"this is not a whole picture of a known kind ({', '.join(MAX_PIXELS)})"
        ) from error


def free_picture(image: Image.Image) -> None:
    """Free a picture's pixels and its decoder, even if other objects still refer to it.

    Image.close keeps the decoder of a WebP file, up to 120 MB.
    """
    vars(image).clear()


def max_pixels(image: Image.Image) -> int:
    """Return how many pixels a picture of this format may have."""
    return MAX_PIXELS.get(image.format, MAX_PIXELS["JPEG"])  # Pillow knows several kinds of JPEG


def count_scans(data: bytes) -> int:
    """Return the number of scans of a JPEG file, up to its end marker."""
    scans, position = 0, 2
    for _ in range(MAX_PIECES):
        match = MARKER.search(data, position)
        if not match or match[1][0] == END:
            return scans
        scans += match[1][0] == SCAN
        position = match.end() + int.from_bytes(data[match.end() : match.end() + 2])
    raise ImageError(TOO_MANY_PIECES)


def check_limits(image: Image.Image, data: bytes) -> None:
    """Raise ImageError if an opened picture, whose file is `data`, is too costly to decode."""
    pixels, limit = image.width * image.height, max_pixels(image)
    if pixels > limit or max(image.size) > MAX_SIDE:
        raise ImageError(
            f"the picture has {image.width} x {image.height} pixels: send at most"
            f" {limit // 10**6} million, and {MAX_SIDE} a side"
        )
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(data)
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise ImageError(f"the picture is stored in {scans} layers: save it with fewer")
