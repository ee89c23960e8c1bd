"""gateway/resizing: the pixels that Keras trains on."""

import os

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

from gateway.images import decode, open_picture, resize
from tests.pictures import encoded, noise

SIZES = ((40, 30), (400, 533), (17, 1200), (1, 1), (64, 96), (2001, 1000))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_resize_gives_the_pixels_of_tensorflow(how, size):
    image = noise("RGB", size)
    expected = tf.image.resize(np.asarray(image), (96, 64), method=how)
    np.testing.assert_allclose(resize(image, (96, 64), how)[0], expected, atol=0.01)


def test_bilinear_is_what_image_dataset_from_directory_gives(tmp_path):
    (tmp_path / "a").mkdir()
    data = encoded(noise("RGB", (400, 533)), "PNG")
    (tmp_path / "a/noise.png").write_bytes(data)
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path, labels=None, image_size=(96, 64), verbose=False
    )
    [expected] = dataset.as_numpy_iterator()
    pixels = resize(decode(open_picture(data)), (96, 64), "bilinear")
    np.testing.assert_allclose(pixels, expected, atol=0.01)


def test_nearest_is_what_load_img_gives(tmp_path):
    data = encoded(noise("RGB", (400, 533)), "PNG")
    (tmp_path / "noise.png").write_bytes(data)
    expected = keras.utils.load_img(tmp_path / "noise.png", target_size=(96, 64))
    np.testing.assert_array_equal(resize(Image.open(tmp_path / "noise.png"), (96, 64))[0], expected)
