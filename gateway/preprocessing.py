"""Scale pixels to the numbers that a model was trained on."""

import re
from collections.abc import Callable

import numpy as np

BGR_MEAN = np.array([103.939, 116.779, 123.68], np.float32)  # ImageNet's
RGB_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
RGB_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

SCALINGS = {  # of float32 pixels, in NumPy and in TensorFlow
    "tf": lambda pixels: pixels / 127.5 - 1,
    "caffe": lambda pixels: pixels[..., ::-1] - BGR_MEAN,
    "torch": lambda pixels: (pixels / 255 - RGB_MEAN) / RGB_DEVIATION,
    "unit": lambda pixels: pixels / 255,
    "none": lambda pixels: pixels,
}
FAMILIES = {  # what keras.applications calls its models, in lower case and without _ and -
    "tf": r"xception|inception(resnet)?v[23]|mobilenet(v2)?|nasnet(mobile|large)?|resnet\d*v2",
    "caffe": r"resnet(50|101|152)?|vgg(16|19)?",
    "torch": r"densenet\d*",
    "none": r"efficientnet.*|mobilenetv3.*|convnext.*|regnet.*|resnetrs.*",
}
CHOICES = (
    "tf (-1 to 1), caffe (BGR minus ImageNet's mean), torch (ImageNet's mean and deviation),"
    " unit (0 to 1), none (0 to 255), or a Keras model's name, such as MobileNetV2 or resnet50"
)


def scaling(preprocessing: str) -> Callable:
    """Return the function from float32 pixels, 0 to 255, to the numbers that a model takes.

    The function takes arrays and TensorFlow's tensors. Raises ValueError for an unknown name.
    """
    if preprocessing in SCALINGS:
        return SCALINGS[preprocessing]
    family = re.sub("[_-]", "", preprocessing.lower())
    for style, names in FAMILIES.items():
        if re.fullmatch(names, family):
            return SCALINGS[style]
    raise ValueError(f"{preprocessing!r} is no preprocessing: choose {CHOICES}")


def scale(pixels: np.ndarray, preprocessing: str) -> np.ndarray:
    """Return pixels of shape (N, height, width, 3) as the float32 that a model takes."""
    return np.ascontiguousarray(scaling(preprocessing)(pixels.astype(np.float32)), np.float32)
