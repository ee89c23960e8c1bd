"""Scale pixels to the numbers that a model was trained on."""

from collections.abc import Callable

import numpy as np
from keras_image_helper import create_preprocessor

SCALINGS = {"unit": lambda pixels: pixels / 255, "none": lambda pixels: pixels}


def scaling(preprocessing: str) -> Callable:
    """Return the function from float32 pixels, 0 to 255, to the numbers that a model takes.

    The function may work in place. `preprocessing` is a name that keras-image-helper knows, such
    as "xception", or "unit" (0 to 1) or "none" (0 to 255).
    """
    return create_preprocessor(SCALINGS.get(preprocessing, preprocessing), None).preprocess


def scale(pixels: np.ndarray, preprocessing: str) -> np.ndarray:
    """Return uint8 pixels of shape (N, height, width, 3) as the float32 that a model takes."""
    return np.ascontiguousarray(scaling(preprocessing)(pixels.astype(np.float32)), np.float32)
