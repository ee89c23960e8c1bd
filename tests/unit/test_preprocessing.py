"""gateway/preprocessing: pixels as the numbers that a model was trained on."""

import numpy as np
import pytest

from gateway.preprocessing import scale, scaling


def test_scale_knows_the_course_and_keras_names():
    pixels = np.array([[[[0, 127, 255]]]], np.uint8)
    np.testing.assert_array_equal(scale(pixels, "none"), pixels)
    np.testing.assert_allclose(scale(pixels, "unit"), [[[[0, 127 / 255, 1]]]])
    np.testing.assert_allclose(scale(pixels, "xception")[0, 0, 0, ::2], [-1, 1])
    assert scale(pixels, "none").dtype == np.float32


@pytest.mark.parametrize(
    ("style", "names"),
    [
        (
            "tf",
            "xception inception_v3 InceptionResNetV2 MobileNet mobilenet_v2 ResNet50V2 NASNetLarge",
        ),
        ("caffe", "resnet50 ResNet152 vgg16 VGG19"),
        ("torch", "DenseNet121 densenet"),
        ("none", "EfficientNetB0 efficientnet_v2 MobileNetV3Small ConvNeXtTiny RegNetX002"),
    ],
)
def test_scaling_knows_the_names_of_keras_families(style, names):
    for name in names.split():
        assert scaling(name) is scaling(style)


def test_scaling_of_torch_gives_the_numbers_of_keras():
    pixels = np.array([[[[0, 127, 255]]]], np.uint8)  # by keras.applications.densenet
    np.testing.assert_allclose(
        scale(pixels, "torch")[0, 0, 0], [-2.117904, 0.187675, 2.64], rtol=1e-5
    )


def test_scaling_names_the_choices():
    with pytest.raises(ValueError, match=r"'exception' is no preprocessing: choose tf .*, torch"):
        scaling("exception")
