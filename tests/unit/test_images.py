"""gateway/images: the same arrays as keras-image-helper, and limits on what strangers send."""

import io
import random
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from keras_image_helper import create_preprocessor
from PIL import Image

from gateway import images
from gateway.images import (
    MAX_PIXELS,
    BusyError,
    ImageError,
    Places,
    count_scans,
    decode,
    decode_and_resize,
    load_small,
    open_picture,
    resize,
    scale,
)
from tutorial.strangers import scan_bomb

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
SIZES = ((1, 1), (299, 299), (300, 298), (400, 533), (17, 1200))
TARGET = (299, 299)


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of noise, the same each time, in any mode."""
    width, height = size
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), np.uint8)
    return Image.fromarray(noise, "RGBA").convert("RGB").convert(mode)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    """The picture as a file's bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("preprocessing", ["xception", "resnet50"])
def test_same_bits_as_keras_image_helper(mode, size, preprocessing, tmp_path):
    kind = "TIFF" if mode == "CMYK" else "PNG"  # a file format that has the mode
    path = tmp_path / "picture"
    path.write_bytes(encoded(picture(mode, size), kind))
    expected = create_preprocessor(preprocessing, TARGET).from_path(path)

    decoded = Image.open(path) if kind == "TIFF" else decode(path.read_bytes())
    array = scale(resize(decoded, TARGET), preprocessing)

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", MAX_PIXELS)
def test_every_allowed_format_is_read(kind, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encoded(picture("RGB", (400, 533)), kind))
    expected = create_preprocessor("xception", TARGET).from_path(path)
    pixels = resize(decode(path.read_bytes()), TARGET)
    np.testing.assert_array_equal(scale(pixels, "xception"), expected)


def test_height_comes_first():
    assert resize(picture("RGB", (40, 30)), (96, 64)).shape == (1, 96, 64, 3)


def test_scalings():
    pixels = np.array([[[[0, 127, 255]]]], np.uint8)
    np.testing.assert_array_equal(scale(pixels, "none"), pixels)
    np.testing.assert_allclose(scale(pixels, "unit"), [[[[0, 127 / 255, 1]]]])
    np.testing.assert_allclose(scale(pixels, "xception")[0, 0, 0, ::2], [-1, 1])
    assert scale(pixels, "none").dtype == np.float32


def test_scaling_leaves_the_pixels_as_they_are():
    pixels = np.full((2, 3, 4, 3), 255, np.uint8)
    scale(pixels, "resnet50")
    assert (pixels == 255).all()


# What becomes of pictures that are not simply red, green and blue


def seen(data: bytes) -> list:
    """What the model sees of a picture file, row by row, in 0…255."""
    image = decode(data)
    return resize(image, (image.height, image.width))[0].tolist()


def row(mode: str, *pixels) -> Image.Image:
    """A picture of one row."""
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def png(width: int, depth: int, colour_type: int, data: bytes) -> bytes:
    """A PNG file of one row, of kinds that Pillow does not write."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, body)
        for kind, body in (
            (b"IHDR", struct.pack(">2I5B", width, 1, depth, colour_type, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"\0" + data)),
            (b"IEND", b""),
        )
    )


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


RED, GREEN, BLUE = [255, 0, 0], [0, 255, 0], [0, 0, 255]


def test_transparency_is_dropped_and_colours_stay():
    image = row("RGBA", (255, 0, 0, 0), (0, 255, 0, 128), (0, 0, 255, 255))
    assert seen(encoded(image)) == [[RED, GREEN, BLUE]]
    assert seen(encoded(image, "WEBP", lossless=True, exact=True)) == [[RED, GREEN, BLUE]]
    assert seen(encoded(row("LA", (7, 0), (9, 255)))) == [[[7] * 3, [9] * 3]]


def test_a_palette_becomes_its_colours():
    image = row("P", 0, 1, 2)
    image.putpalette([*RED, *GREEN, *BLUE])
    for options in ({}, {"transparency": 1}):
        assert seen(encoded(image, "PNG", **options)) == [[RED, GREEN, BLUE]]
        assert seen(encoded(image, "GIF", **options)) == [[RED, GREEN, BLUE]]


def test_black_and_white_and_grey():
    assert seen(encoded(row("1", 0, 255))) == [[[0] * 3, [255] * 3]]
    assert seen(encoded(row("L", 0, 7, 255))) == [[[0] * 3, [7] * 3, [255] * 3]]


def test_print_colours_are_converted_by_the_simple_formula():
    image = Image.new("CMYK", (8, 8), (0, 255, 0, 102))  # magenta, darkened by 40%
    assert seen(encoded(image, "JPEG", quality=100))[0][0] == [153, 0, 153]


def test_of_sixteen_bits_the_upper_eight_count():
    values = 0, 255, 256, 32768, 65535
    wanted = [[[value >> 8] * 3 for value in values]]
    assert seen(png(5, 16, 0, struct.pack(">5H", *values))) == wanted  # grey
    assert seen(encoded(Image.fromarray(np.array([values], np.uint16)))) == wanted
    colours = struct.pack(">6H", 65535, 256, 255, 0, 32768, 4660)
    assert seen(png(2, 16, 2, colours)) == [[[255, 1, 0], [0, 128, 18]]]  # red, green, blue


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_on_its_side_is_turned_upright(kind, orientation):
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("lime", (32, 0, 48, 16))
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored so that a turn by 270 degrees mends it
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, kind, exif=exif, quality=100))
    assert image.size == (48, 32)
    corners = np.asarray(image.convert("RGB"))[[8, 8, 24], [8, 40, 8]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE], atol=5)


@pytest.mark.parametrize(
    "exif", [b"", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" + b"\xff" * 40, b"no such thing"]
)
def test_exif_that_makes_no_sense_does_no_harm(exif):
    data = encoded(picture("RGB", (9, 9)), "JPEG", exif=b"Exif\0\0" + exif)
    assert decode(data).size == (9, 9)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_of_an_animation_the_first_frame_counts(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert seen(data)[0][0] == RED


def test_of_several_pictures_in_one_file_the_first_counts():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_allclose(seen(data)[0][0], RED, atol=3)


# What is refused


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "known kind"),
        (b"<!doctype html>", "known kind"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "known kind"),
        (encoded(picture("RGB", (90, 90)), "JPEG")[:-900], "whole picture"),
        (encoded(picture("RGB", (90, 90)), "PNG")[:-900], "whole picture"),
        (encoded(picture("RGB", (90, 90)), "WEBP")[:-900], "whole picture"),
        (encoded(picture("RGB", (90, 90)), "BMP")[:-900], "whole picture"),
        (encoded(picture("P", (90, 90)), "GIF")[:-900], "whole picture"),
        (bytes(images.MAX_BYTES + 1), "larger than 10 MB"),
        (encoded(Image.new("1", (5001, 5000))), "5001 x 5000 pixels: send at most 25 million"),
        (encoded(Image.new("1", (12_001, 1))), "12001 x 1 pixels: .* 12000 a side"),
        (encoded(Image.new("L", (4000, 3800)), "WEBP"), "at most 15 million"),
        (encoded(Image.new("1", (14_000, 13_000))), "too many pixels"),
        (scan_bomb((64, 64), 51), "51 layers"),
        (scan_bomb((4000, 4000), 40), "40 layers"),
    ],
    ids=[
        *("empty", "html", "tiff", "half a jpeg", "half a png", "half a webp", "half a bmp"),
        *("half a gif", "bytes", "pixels", "side", "webp pixels", "Pillow's own limit"),
        *("scans", "scans for its size"),
    ],
)
def test_what_is_no_picture_is_refused_in_words(data, words):
    with pytest.raises(ImageError, match=words):
        decode(data)


def test_what_is_within_the_limits_is_decoded():
    assert decode(encoded(Image.new("1", (5000, 5000)))).size == (5000, 5000)
    assert decode(encoded(Image.new("1", (12_000, 1)))).size == (12_000, 1)
    assert decode(scan_bomb((64, 64), 50)).size == (64, 64)
    assert decode(encoded(picture("RGB", (300, 200)), "JPEG", progressive=True)).size == (300, 200)


def test_scans_are_counted_where_a_decoder_looks():
    plain = encoded(picture("RGB", (99, 99)), "JPEG")
    thumbnail = b"\xff\xe1" + struct.pack(">H", 2 + len(plain)) + plain
    for data, scans in (
        (plain, 1),
        (encoded(picture("RGB", (99, 99)), "JPEG", progressive=True), 10),
        (encoded(picture("RGB", (99, 99)), "JPEG", restart_marker_blocks=1), 1),
        (plain[:2] + thumbnail + plain[2:], 1),
        (plain + b"\xff\xda" * 99, 1),  # behind the end: a phone's film, perhaps
        (scan_bomb((9, 9), 70), 70),
        (scan_bomb((9, 9), 70).replace(b"\xff\xda", b"\xff\xff\xff\xda"), 70),  # filled up
        (b"\xff\xd8\xff", 0),
        (b"\xff\xd8\xff\xda", 1),
    ):
        assert count_scans(data) == scans


def in_pieces(kind: str) -> bytes:
    """A picture file of 10 MB, most of it empty pieces."""
    plain = encoded(picture("P" if kind == "GIF" else "RGB", (9, 9)), kind.split()[0])
    place, piece = {
        "JPEG of comments": (2, b"\xff\xfe\0\2"),
        "JPEG of filling": (2, b"\xff"),
        "PNG of chunks": (33, chunk(b"teST")),
        "PNG of data": (33, chunk(b"IDAT")),
        "GIF of comments": (13, b"\x21\xfe\1a\0"),
        "GIF of nothing": (13, b"\0"),
        "JPEG of comments behind its first scan": (-2, b"\xff\xfe\0\2"),
    }[kind]
    if kind.startswith("GIF"):
        place = 13 + 3 * 2 ** ((plain[10] & 7) + 1)  # behind the palette
    return plain[:place] + piece * ((images.MAX_BYTES - len(plain)) // len(piece)) + plain[place:]


@pytest.mark.parametrize(
    "kind",
    [
        *("JPEG of comments", "JPEG of filling", "PNG of chunks", "PNG of data"),
        *("GIF of comments", "GIF of nothing", "JPEG of comments behind its first scan"),
    ],
)
def test_a_million_pieces_do_not_hold_the_decoder(kind):
    data, begun = in_pieces(kind), time.process_time()
    with pytest.raises(ImageError, match="too many pieces"):
        decode(data)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("kind", MAX_PIXELS)
def test_a_damaged_file_is_a_picture_or_the_senders_error(kind):
    chance = random.Random(kind)
    whole = encoded(picture("RGB", (40, 30)), kind)
    errors = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(min(len(data), 400))] = chance.randrange(256)
        try:
            resize(decode(bytes(data[: chance.randint(20, 2 * len(data))])), (8, 8))
        except ImageError:
            errors += 1
    assert errors > 100


# Taking turns


def scene(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """A picture of smooth patches, as photos are, the same each time."""
    patches = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(patches).resize(size, Image.Resampling.BICUBIC).convert(mode)


@pytest.mark.parametrize(
    ("size", "decoded"),
    [
        ((3000, 4000), (375, 500)),
        ((4000, 3000), (500, 375)),
        ((1196, 1196), (299, 299)),
        ((1600, 1200), (400, 300)),
        ((1195, 4000), (1195, 4000)),  # not four times as large in both directions
        ((400, 533), (400, 533)),
    ],
)
def test_a_much_larger_jpeg_is_decoded_small_but_no_smaller_than_the_model_needs(size, decoded):
    image = open_picture(encoded(scene(size), "JPEG"))
    small = load_small(image, TARGET)
    assert image.size == decoded
    assert small.size == (TARGET if decoded != size else size)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decoded_small_it_looks_as_decoded_whole(mode, options):
    data = encoded(scene((2400, 1600), mode), "JPEG", quality=95, **options)
    small = decode_and_resize(open_picture(data), TARGET)
    whole = resize(decode(data), TARGET)
    assert not (small == whole).all()  # it is decoded small
    assert abs(small - whole.astype(float)).mean() < 2.5  # of 255


def test_decoded_small_it_is_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(scene((2400, 1600)), "JPEG", exif=exif)
    assert load_small(open_picture(data), (299, 150)).size == (150, 299)
    small = decode_and_resize(open_picture(data), TARGET)
    assert abs(small - resize(decode(data), TARGET).astype(float)).mean() < 2.5  # of 255


def test_near_the_models_size_it_stays_exact_and_other_formats_always():
    for data in (encoded(scene((1100, 1300)), "JPEG"), encoded(scene((1600, 1200)), "PNG")):
        assert (decode_and_resize(open_picture(data), TARGET) == resize(decode(data), TARGET)).all()


def test_half_a_phone_photo_is_refused():
    data = encoded(scene((4000, 3000)), "JPEG")
    with pytest.raises(ImageError, match="whole picture"):
        decode_and_resize(open_picture(data[: len(data) // 2]), TARGET)


def test_there_are_two_places_and_a_large_picture_takes_both():
    places = Places(2)
    with (
        places.take(1, wait=0),
        places.take(1, wait=0),
        pytest.raises(BusyError),
        places.take(1, wait=0.05),
    ):
        pass
    with places.take(2, wait=0), pytest.raises(BusyError), places.take(1, wait=0.05):
        pass
    with pytest.raises(ZeroDivisionError), places.take(2, wait=0):
        raise ZeroDivisionError
    with places.take(2, wait=0):
        pass


def test_who_waits_gets_the_place_that_becomes_free():
    places, waiting = Places(1), threading.Event()

    def wait_for_it():
        waiting.set()
        with places.take(1, wait=5):
            return "served"

    with ThreadPoolExecutor() as pool:
        with places.take(1, wait=0):
            answer = pool.submit(wait_for_it)
            waiting.wait(5)
        assert answer.result(5) == "served"


@pytest.mark.parametrize(("size", "needed"), [((3535, 3535), 1), ((3536, 3536), 2)])
def test_a_picture_waits_for_the_places_that_it_needs(size, needed, monkeypatch):
    data, places = encoded(Image.new("1", size)), Places(needed)
    monkeypatch.setattr(images, "_places", places)
    assert decode_and_resize(open_picture(data), (4, 4), wait=0).shape == (1, 4, 4, 3)
    with places.take(1, wait=0), pytest.raises(BusyError):
        decode_and_resize(open_picture(data), (4, 4), wait=0.01)


def test_a_bad_picture_gives_its_place_back(monkeypatch):
    monkeypatch.setattr(images, "_places", Places(1))
    for _ in range(2):
        with pytest.raises(ImageError):
            decode_and_resize(
                open_picture(encoded(picture("RGB", (90, 90)))[:-900]), (4, 4), wait=0
            )


def test_two_places_are_free_in_every_process():
    assert images._places._free == 2
