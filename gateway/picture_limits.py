"""Check untrusted picture files before, and while, Pillow decodes them."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, PngImagePlugin

from gateway.errors import MAX_CMYK, MAX_PIXELS, MAX_SIDE, ImageError

MAX_SCANS = 50  # layers of a progressive JPEG; 10 are usual
MAX_SCANNED = 500_000_000  # pixels times scans, which take about half a second to decode
MAX_PIECES = 100_000  # of which a file may consist
MAX_HEADERS = 2_000  # of which those before the pixels may be
MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
SCAN, END = 0xDA, 0xD9
TOO_MANY_PIECES = "the file is cut into too many pieces: save the picture again"
DAMAGED = "this picture is damaged or cut off: send the whole file"
SAVE = "save it as JPEG or PNG"
STARTS = {  # what a file is, by the bytes that it starts with
    rb"$": "the file is empty",
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|RIFF.{4}WEBP": DAMAGED,
    rb".{4}ftyp(.{4}){0,8}avi[fs]": f"this is an AVIF picture, which is not read: {SAVE}",
    rb".{4}ftyp(hei|hev|mif1|msf1)": f"this is a HEIC picture, which is not read: {SAVE}",
    rb"II\*\0|MM\0\*": f"this is a TIFF picture, which is not read: {SAVE}",
    rb"%PDF": f"this is a PDF document: take the picture out of it, and {SAVE}",
    rb"\s*<(.*<)?(!doctype )?html": "this is a web page: give the address of the picture itself",
    rb"\s*<(.*<)?svg": f"this is an SVG drawing, which has no pixels: {SAVE}",
}

# Pillow skips a chunk of a PNG file that it has no method for. These hold text or a colour profile:
# nothing of the picture, and up to a megabyte each, compressed to one kilobyte.
for kind in ("tEXt", "zTXt", "iTXt", "iCCP"):
    delattr(PngImagePlugin.PngStream, f"chunk_{kind}")


class CountedFile(BytesIO):
    """Hold a picture file in memory, and let a decoder read a limited number of times."""

    reads, most = 0, MAX_HEADERS

    def read(self, size: int | None = -1) -> bytes:
        """Read as BytesIO does. Raises ImageError after `most` calls."""
        self.reads += 1
        if self.reads > self.most:
            raise ImageError(TOO_MANY_PIECES)
        return super().read(size)


def what_is_wrong(data: bytes) -> str:
    """Return why a file cannot be opened, for the client."""
    for start, problem in STARTS.items():
        if re.match(start, data[:1000], re.DOTALL | re.IGNORECASE):
            return problem
    return f"this is not a picture of a known kind ({', '.join(MAX_PIXELS)})"


@contextmanager
def picture_errors(problem: str = DAMAGED) -> Iterator[None]:
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
        raise ImageError(problem) from error


@contextmanager
def freed(image: Image.Image) -> Iterator[Image.Image]:
    """Free a picture's pixels and its decoder at the end, even if other objects refer to it.

    Image.close keeps the decoder of a WebP file, up to 120 MB.
    """
    try:
        yield image
    finally:
        vars(image).clear()


def max_pixels(image: Image.Image) -> int:
    """Return how many pixels a picture of this format may have."""
    if image.mode == "CMYK":
        return MAX_CMYK
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


def check_limits(image: Image.Image, file: CountedFile) -> None:
    """Let an opened picture's pixels be read. Raises ImageError if they cost too much."""
    file.most = MAX_PIECES
    pixels, limit = image.width * image.height, max_pixels(image)
    if pixels > limit or max(image.size) > MAX_SIDE:
        raise ImageError(
            f"the picture has {image.width} x {image.height} pixels: send at most"
            f" {limit // 10**6} million, and {MAX_SIDE} a side"
        )
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(file.getvalue())
        if scans > MAX_SCANS or scans * pixels > MAX_SCANNED:
            raise ImageError(f"the picture is stored in {scans} layers: save it with fewer")
