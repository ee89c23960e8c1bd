"""gateway/images: the same arrays as keras-image-helper, and limits on what strangers send."""

import io
import time

import numpy as np
import pytest
from keras_image_helper import create_preprocessor
from PIL import Image

from gateway import images
from gateway.images import ImageError, decode, fetch, prepare

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16")
SIZES = ((1, 1), (299, 299), (300, 298), (400, 533), (17, 1200))
TARGET = (299, 299)


def picture(mode: str, size: tuple[int, int]) -> Image.Image:
    """A picture of noise, the same each time, in any mode."""
    width, height = size
    noise = np.random.default_rng(width * height).integers(0, 256, (height, width, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
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
    array = prepare(decoded, TARGET, preprocessing)

    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("kind", images.FORMATS)
def test_every_allowed_format_is_read(kind, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(encoded(picture("RGB", (400, 533)), kind))
    expected = create_preprocessor("xception", TARGET).from_path(path)
    np.testing.assert_array_equal(prepare(decode(path.read_bytes()), TARGET, "xception"), expected)


def test_height_comes_first():
    assert prepare(picture("RGB", (40, 30)), (96, 64), "none").shape == (1, 96, 64, 3)


def test_scalings():
    grey = Image.new("RGB", (2, 2), (0, 127, 255))
    np.testing.assert_array_equal(prepare(grey, (1, 1), "none"), [[[[0, 127, 255]]]])
    np.testing.assert_allclose(prepare(grey, (1, 1), "unit"), [[[[0, 127 / 255, 1]]]])
    np.testing.assert_allclose(prepare(grey, (1, 1), "xception")[0, 0, 0, ::2], [-1, 1])


def test_a_photo_on_its_side_is_turned_upright():
    image = Image.new("RGB", (4, 2), "blue")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right: turn by 90 degrees
    upright = decode(encoded(image, "PNG", exif=exif))
    assert upright.size == (2, 4)
    assert upright.getpixel((1, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "known kind"),
        (b"<!doctype html>", "known kind"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "known kind"),
        (encoded(picture("RGB", (90, 90)), "JPEG")[:-900], "whole picture"),
        (encoded(picture("RGB", (90, 90)), "PNG")[:-900], "whole picture"),
        (encoded(Image.new("1", (6000, 6000))), "million pixels"),
    ],
    ids=["empty", "html", "tiff", "half a jpeg", "half a png", "bomb"],
)
def test_what_is_no_picture_is_refused_in_words(data, words):
    with pytest.raises(ImageError, match=words):
        decode(data)


def test_fetch_returns_the_bytes(picture_server):
    folder, address = picture_server
    (folder / "a.png").write_bytes(b"bytes")
    assert fetch(f"{address}/a.png") == b"bytes"


@pytest.mark.parametrize(
    ("path", "words"),
    [("file:///etc/passwd", "http"), ("data:,x", "http"), ("t-shirt.jpg", "http"), ("", "http")],
)
def test_only_web_addresses_are_fetched(path, words):
    with pytest.raises(ImageError, match=words):
        fetch(path)


@pytest.mark.parametrize("url", ["http://", "http://[", "http://a b/", "http://127.0.0.1:0/"])
def test_an_address_that_cannot_be_fetched_is_the_senders_error(url):
    with pytest.raises(ImageError):
        fetch(url)


def test_a_missing_file_is_named_by_its_status(picture_server):
    with pytest.raises(ImageError, match="404"):
        fetch(picture_server[1] + "/missing.png")


def test_a_large_file_is_not_read_to_its_end(picture_server, monkeypatch):
    folder, address = picture_server
    (folder / "large").write_bytes(bytes(3 * 2**20))
    monkeypatch.setattr(images, "MAX_BYTES", 2**20)
    with pytest.raises(ImageError, match="larger than 1 MB"):
        fetch(f"{address}/large")


def test_a_silent_server_does_not_hold_the_caller():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(ImageError):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3)
        assert time.monotonic() - begun < 3
