"""gateway/picture_limits: what is refused, before it costs memory or time."""

import random
import struct
import time
import tracemalloc
import zlib

import pytest
from PIL import Image

from gateway.errors import MAX_BYTES, MAX_PIXELS, ImageError
from gateway.images import resize
from gateway.picture_limits import count_scans
from tests.pictures import chunk, decoded, encoded, noise
from tutorial.hostile import scan_bomb


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"what is this?", "not a picture of a known kind"),
        (b"\n<!doctype html><svg>", "a web page: give the address of the picture"),
        (b'<?xml version="1.0"?><html>', "a web page"),
        (b'<?xml version="1.0"?>\n<svg>', "an SVG drawing"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture, .* save it as JPEG"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "a HEIC picture"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF picture"),
        (encoded(Image.new("RGB", (9, 9)), "AVIF"), "an AVIF picture, .* save it as JPEG"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "a TIFF picture"),
        *[(encoded(noise("RGB", (90, 90)), kind)[:-900], "cut off: send") for kind in MAX_PIXELS],
        *[(encoded(noise("RGB", (90, 90)), kind)[:20], "cut off: send") for kind in MAX_PIXELS],
        (encoded(Image.new("CMYK", (4473, 4473)), "JPEG"), "at most 20 million"),
        (encoded(Image.new("1", (5001, 5000))), "5001 x 5000 pixels: send at most 25 million"),
        (encoded(Image.new("1", (12_001, 1))), "12001 x 1 pixels: .* 12000 a side"),
        (encoded(Image.new("L", (4000, 3800)), "WEBP"), "at most 15 million"),
        (encoded(Image.new("1", (14_000, 13_000))), "too many pixels"),
        (scan_bomb((64, 64), 51), "51 layers"),
        (scan_bomb((4000, 4000), 40), "40 layers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_open_and_decode_refuse_what_is_no_picture_or_too_large(data, words):
    with pytest.raises(ImageError, match=words):
        decoded(data)


def test_decode_reads_what_is_within_the_limits():
    assert decoded(encoded(Image.new("1", (5000, 5000)))).size == (5000, 5000)
    assert decoded(encoded(Image.new("1", (12_000, 1)))).size == (12_000, 1)
    assert decoded(scan_bomb((64, 64), 50)).size == (64, 64)
    assert decoded(encoded(noise("RGB", (300, 200)), "JPEG", progressive=True)).size == (300, 200)


def test_count_scans_looks_where_a_decoder_looks():
    plain = encoded(noise("RGB", (99, 99)), "JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(plain)) + plain
    for data, scans in (
        (plain, 1),
        (encoded(noise("RGB", (99, 99)), "JPEG", progressive=True), 10),
        (encoded(noise("RGB", (99, 99)), "JPEG", restart_marker_blocks=1), 1),
        (plain[:2] + thumbnail + plain[2:], 1),
        (plain + b"\xff\xda" * 99, 1),  # behind the end: a phone's film, perhaps
        (scan_bomb((9, 9), 70), 70),
        (scan_bomb((9, 9), 70).replace(b"\xff\xda", b"\xff\xff\xff\xda"), 70),  # filled up
        (b"\xff\xd8\xff", 0),
        (b"\xff\xd8\xff\xda", 1),
    ):
        assert count_scans(data) == scans


def in_pieces(kind: str, place: int | None, piece: bytes) -> bytes:
    """A picture file of 10 MB, most of it empty pieces."""
    plain = encoded(noise("RGB", (9, 9)), kind)
    if kind == "GIF":
        place = 13 + 3 * 2 ** ((plain[10] & 7) + 1)  # behind the palette
    return plain[:place] + piece * ((MAX_BYTES - len(plain)) // len(piece)) + plain[place:]


@pytest.mark.parametrize(
    ("kind", "place", "piece"),
    [
        pytest.param("JPEG", 2, b"\xff\xfe\0\2", id="JPEG of comments"),
        pytest.param("JPEG", 2, b"\xff", id="JPEG of filling"),
        pytest.param("JPEG", -2, b"\xff\xfe\0\2", id="JPEG of comments behind its first scan"),
        pytest.param("JPEG", 2, b"\xff\xe1\1\0Exif\0\0" + bytes(248), id="JPEG of EXIF"),
        pytest.param("PNG", 33, chunk(b"teST"), id="PNG of chunks"),
        pytest.param("PNG", 33, chunk(b"IDAT"), id="PNG of data"),
        pytest.param("GIF", None, b"\x21\xfe\1a\0", id="GIF of comments"),
        pytest.param("GIF", None, b"\0", id="GIF of nothing"),
    ],
)
def test_open_and_decode_refuse_a_million_pieces_soon(kind, place, piece):
    data, begun = in_pieces(kind, place, piece), time.process_time()
    with pytest.raises(ImageError, match="too many pieces"):
        decoded(data)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("head", [b"k\0", b"k\0\0\0\0\0"], ids=["compressed", "international"])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt", b"iCCP"])
def test_decode_skips_text_in_a_png(kind, head):
    """Text of 2 MB, which Pillow refuses, and 60 of 1 MB, which it keeps until the answer."""
    plain = encoded(noise("RGB", (9, 9)))
    for size, times in (2 * 2**20, 1), (2**20 - 1, 60):
        text = chunk(kind, head + zlib.compress(bytes(size)))
        data = plain[:33] + text * times + plain[33:-12] + text * times + plain[-12:]
        tracemalloc.start()
        try:
            assert decoded(data).size == (9, 9)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 500_000


@pytest.mark.parametrize("kind", MAX_PIXELS)
def test_resize_takes_a_damaged_file_or_raises_an_image_error(kind):
    chance = random.Random(kind)
    whole = encoded(noise("RGB", (40, 30)), kind)
    errors = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        try:
            resize(decoded(bytes(data[: chance.randint(20, 2 * len(data))])), (8, 8))
        except ImageError:
            errors += 1
    assert errors > 100
