"""The starter model's card and its sample pictures, as far as no model is needed."""

import runpy

import numpy as np
import pytest
from PIL import Image

from tutorial import ROOT
from tutorial.sources import CLOTHES

SAMPLES = ROOT / "starter/samples"


def test_samples_are_one_small_picture_of_each_label():
    samples = sorted(SAMPLES.glob("*.jpg"))
    assert [path.stem for path in samples] == CLOTHES.split(",")
    for path in samples:
        assert path.stat().st_size <= 40_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (400, 533))


@pytest.mark.parametrize("name", ["hat", "longsleeve", "pants"])
def test_draw_samples_draws_the_samples(name):
    draw = runpy.run_path(ROOT / "starter/draw_samples.py")["PICTURES"][name]
    drawn = np.asarray(draw(), dtype=float)
    with Image.open(SAMPLES / f"{name}.jpg") as image:
        assert abs(drawn - np.asarray(image, dtype=float)).mean() < 4  # JPEG is not exact
