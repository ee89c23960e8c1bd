"""gateway/images: the same arrays as keras-image-helper, for pictures of all kinds."""

import io
import struct
import zlib

import numpy as np
import pytest
from keras_image_helper import create_preprocessor
from PIL import Image

from gateway.deadline import Deadline
from gateway.errors import MAX_PIXELS
from gateway.images import decode_and_resize, decode_small, open_picture, resize
from gateway.preprocessing import scale
from tests.pictures import chunk, decoded, encoded, noise

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
SIZES = ((1, 1), (299, 299), (300, 298), (400, 533), (17, 1200))
TARGET = (299, 299)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("preprocessing", ["xception", "resnet50"])
def test_resize_gives_the_same_bits_as_keras_image_helper(mode, size, preprocessing, tmp_path):
    kind = "TIFF" if mode == "CMYK" else "PNG"  # a file format that has the mode
    path = tmp_path / "picture"
    path.write_bytes(encoded(noise(mode, size), kind))
    expected = create_preprocessor(preprocessing, TARGET).from_path(path)

    picture = Image.open(path) if kind == "TIFF" else decoded(path.read_bytes())
    array = scale(resize(picture, TARGET), preprocessing)

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", MAX_PIXELS)
def test_decode_reads_every_allowed_format(kind, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encoded(noise("RGB", (400, 533)), kind))
    expected = create_preprocessor("xception", TARGET).from_path(path)
    pixels = resize(decoded(path.read_bytes()), TARGET)
    np.testing.assert_array_equal(scale(pixels, "xception"), expected)


# Pictures that are not simply red, green and blue


def seen(data: bytes, how: str = "nearest") -> list:
    """What the model sees of a picture file, row by row, in 0…255."""
    image = decoded(data)
    return resize(image, (image.height, image.width), how)[0].tolist()


def row(mode: str, *pixels) -> Image.Image:
    """A picture of one row."""
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


def png(width: int, depth: int, colour_type: int, data: bytes, transparent: bytes = b"") -> bytes:
    """A PNG file of one row, of kinds that Pillow does not write."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(kind, body)
        for kind, body in (
            (b"IHDR", struct.pack(">2I5B", width, 1, depth, colour_type, 0, 0, 0)),
            *([(b"tRNS", transparent)] if transparent else []),
            (b"IDAT", zlib.compress(b"\0" + data)),
            (b"IEND", b""),
        )
    )


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


def palette() -> Image.Image:
    """Red, green and blue, from a palette."""
    image = row("P", 0, 1, 2)
    image.putpalette([*RED, *GREEN, *BLUE])
    return image


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_resize_shows_what_is_transparent_on_white(how):
    half = [127, 255, 127]
    image = row("RGBA", (255, 0, 0, 0), (0, 255, 0, 128), (0, 0, 255, 255))
    assert seen(encoded(image), how) == [[WHITE, half, BLUE]]
    assert seen(encoded(image, "WEBP", lossless=True, exact=True), how) == [[WHITE, half, BLUE]]
    assert seen(encoded(row("LA", (7, 0), (9, 255))), how) == [[WHITE, [9] * 3]]
    for kind in ("PNG", "GIF"):
        assert seen(encoded(palette(), kind, transparency=1), how) == [[RED, WHITE, BLUE]]
    see_through = encoded(row("RGB", (255, 0, 0), (0, 255, 0)), transparency=(0, 255, 0))
    assert seen(see_through, how) == [[RED, WHITE]]
    assert resize(decoded(see_through), (1, 2), how, colours=1)[0, 0, 1] == 255


@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_resize_knows_a_transparent_colour_at_every_depth(how):
    """The first of two pixels has the transparent colour, the second differs in a low bit."""
    short = struct.Struct(">H").pack
    wanted = {1: 255, 2: 170, 4: 102, 8: 79, 16: 78}  # of the opaque pixel
    pixels = {1: b"\x40", 2: b"\x60", 4: b"\x56", 8: b"\x4e\x4f", 16: short(20000) + short(20001)}
    colours = {1: 0, 2: 1, 4: 5, 8: 78, 16: 20000}
    for depth, colour in colours.items():
        data = png(2, depth, 0, pixels[depth], short(colour))
        assert seen(data, how) == [[WHITE, [wanted[depth]] * 3]], depth
    colour, other = struct.pack(">3H", 258, 515, 772), struct.pack(">3H", 258, 515, 65535)
    assert seen(png(2, 16, 2, colour + other, colour), how) == [[WHITE, [1, 2, 255]]]


def test_print_colours_are_converted_by_the_simple_formula():
    image = Image.new("CMYK", (8, 8), (0, 255, 0, 102))  # magenta, darkened by 40%
    assert seen(encoded(image, "JPEG", quality=100))[0][0] == [153, 0, 153]


def test_resize_takes_the_upper_eight_of_sixteen_bits():
    values = 0, 255, 256, 32768, 65535
    wanted = [[[value >> 8] * 3 for value in values]]
    assert seen(png(5, 16, 0, struct.pack(">5H", *values))) == wanted  # grey
    assert seen(encoded(Image.fromarray(np.array([values], np.uint16)))) == wanted
    colours = struct.pack(">6H", 65535, 256, 255, 0, 32768, 4660)
    assert seen(png(2, 16, 2, colours)) == [[[255, 1, 0], [0, 128, 18]]]  # red, green, blue


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_decode_turns_a_photo_upright(kind):
    upright = Image.new("RGB", (48, 32), "blue")
    upright.paste("red", (0, 0, 16, 16))
    upright.paste("lime", (32, 0, 48, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored so that a turn by 270 degrees turns it upright
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    image = decoded(encoded(stored, kind, exif=exif, quality=100))
    assert image.size == (48, 32)
    corners = np.asarray(image.convert("RGB"))[[8, 8, 24], [8, 40, 8]]
    np.testing.assert_allclose(corners, [RED, GREEN, BLUE], atol=5)


@pytest.mark.parametrize(
    "exif", [b"", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0" + b"\xff" * 40, b"no such thing"]
)
def test_decode_ignores_broken_exif(exif):
    data = encoded(noise("RGB", (9, 9)), "JPEG", exif=b"Exif\0\0" + exif)
    assert decoded(data).size == (9, 9)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_decode_reads_the_first_frame_of_an_animation(kind):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert seen(data)[0][0] == RED


def test_decode_reads_the_first_picture_of_a_file_of_several():
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    np.testing.assert_allclose(seen(data)[0][0], RED, atol=3)


# Photos much larger than the model's size


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
def test_decode_small_is_no_smaller_than_the_model_needs(size, decoded):
    image = open_picture(encoded(scene(size), "JPEG"))
    small = decode_small(image, TARGET)
    assert image.size == decoded
    assert small.size == (TARGET if decoded != size else size)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decode_small_looks_like_decoded_whole(mode, options):
    data = encoded(scene((2400, 1600), mode), "JPEG", quality=95, **options)
    small = decode_and_resize(data, TARGET, Deadline.after(5))
    whole = resize(decoded(data), TARGET)
    assert not (small == whole).all()  # it is decoded small
    assert abs(small - whole.astype(float)).mean() < 2.5  # of 255


def test_decode_small_turns_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    data = encoded(scene((2400, 1600)), "JPEG", exif=exif)
    assert decode_small(open_picture(data), (299, 150)).size == (150, 299)
    small = decode_and_resize(data, TARGET, Deadline.after(5))
    assert abs(small - resize(decoded(data), TARGET).astype(float)).mean() < 2.5  # of 255


def test_decode_small_is_exact_near_the_models_size_and_for_other_formats():
    for data in (encoded(scene((1100, 1300)), "JPEG"), encoded(scene((1600, 1200)), "PNG")):
        assert (
            decode_and_resize(data, TARGET, Deadline.after(5)) == resize(decoded(data), TARGET)
        ).all()


def test_decode_and_resize_shrinks_only_if_it_may():
    data = encoded(scene((2400, 1600)), "JPEG")
    whole = decode_and_resize(data, TARGET, Deadline.after(5), shrink=False)
    np.testing.assert_array_equal(whole, resize(decoded(data), TARGET))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("mode", MODES)
def test_resize_of_every_mode_mixes_the_pixels_that_are_seen(how, mode):
    image = noise(mode, (40, 30))
    mixed = resize(image, (30, 40), how)  # the same size: nothing is mixed
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed[0], np.asarray(image.convert("RGB")), atol=0.01)


@pytest.mark.parametrize(("colours", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("how", ["nearest", "bilinear"])
def test_resize_gives_the_colours_that_the_model_takes(colours, mode, how):
    image = noise("RGBA", (40, 30))
    expected = np.asarray(image.convert(mode)).reshape(1, 30, 40, colours)
    np.testing.assert_allclose(resize(image, (30, 40), how, colours), expected, atol=0.01)
