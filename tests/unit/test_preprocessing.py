"""gateway/preprocessing: pixels as the numbers that a model was trained on."""

import numpy as np

from gateway.preprocessing import scale


def test_scale_knows_the_course_and_keras_names():
    pixels = np.array([[[[0, 127, 255]]]], np.uint8)
    np.testing.assert_array_equal(scale(pixels, "none"), pixels)
    np.testing.assert_allclose(scale(pixels, "unit"), [[[[0, 127 / 255, 1]]]])
    np.testing.assert_allclose(scale(pixels, "xception")[0, 0, 0, ::2], [-1, 1])
    assert scale(pixels, "none").dtype == np.float32


def test_scale_leaves_its_input_as_it_is():
    pixels = np.full((2, 3, 4, 3), 255, np.uint8)
    scale(pixels, "resnet50")
    assert (pixels == 255).all()
