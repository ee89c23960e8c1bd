"""Models of keras.applications: the signature for bytes gives the scores of Keras.

The networks have random weights and no head, so their features are the scores. One small family
is tested by default, all of them with FAMILIES=full, which takes minutes.
"""

import os
from itertools import product

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tf_keras

from gateway.preprocessing import scaling
from tutorial import convert, read_model, verify

FAMILIES = {  # model: the module with its preprocess_input
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "VGG16": "vgg16",
    "ResNet50": "resnet50",
    "MobileNetV3Large": "mobilenet_v3",
    "ConvNeXtTiny": "convnext",
    "InceptionV3": "inception_v3",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "DenseNet121": "densenet",
    "NASNetMobile": "nasnet",
}
READERS = {"keras": keras, "tf_keras": tf_keras}
TESTED = list(product(FAMILIES, READERS))
if os.environ.get("FAMILIES") != "full":
    TESTED = [("MobileNetV3Small", "tf_keras")]
SIZE = 75  # the smallest that all take

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of Keras 3, with NumPy 2
]


@pytest.mark.parametrize(("name", "package"), TESTED)
def test_bytes_get_the_scores_that_keras_gives(name, package, tmp_path):
    reader = READERS[package]
    reader.utils.set_random_seed(1)
    build = getattr(reader.applications, name)
    family = getattr(reader.applications, FAMILIES[name])
    original = build(weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3))
    path = tmp_path / ("model.keras" if reader is keras else "model.h5")
    original.save(path)

    model = read_model.load_model(path)
    default, scale = convert.float_signature(model), scaling(name)
    assert read_model.scales_its_input(model) == (scale is scaling("none"))
    uint8 = convert.uint8_signature(default, scale)
    convert.save_model(model, {"default": default, "uint8": uint8}, tmp_path / "saved")

    functions, _ = read_model.open_saved_model(tmp_path / "saved")
    labels = [str(number) for number in range(original.output_shape[1])]
    signature = read_model.read_signature(functions, "uint8", labels)
    pixels = verify.random_pixels(signature)
    images = family.preprocess_input(pixels.astype(np.float32))
    expected = np.asarray(original(images, training=False))
    assert expected.std() > 0
    verify.compare_scores(signature(pixels), expected)
    verify.check_as_served(tmp_path / "saved", signature)
