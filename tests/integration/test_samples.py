"""The sample pictures: one for each label, as starter/draw_samples.py draws them."""

import runpy

import numpy as np
import pytest
from PIL import Image

from tutorial.sources import CLOTHES


def test_samples_are_one_small_picture_of_each_label(root):
    samples = list((root / "starter/samples").glob("*.jpg"))
    assert {path.stem for path in samples} == set(CLOTHES.split(","))
    for path in samples:
        assert path.stat().st_size <= 40_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (400, 533))


@pytest.mark.parametrize("name", ["hat", "longsleeve", "pants"])
def test_draw_samples_draws_the_samples(name, root):
    pictures = runpy.run_path(str(root / "starter/draw_samples.py"))["PICTURES"]
    drawn = np.asarray(pictures[name](), dtype=float)
    with Image.open(root / f"starter/samples/{name}.jpg") as image:
        assert abs(drawn - np.asarray(image, dtype=float)).mean() < 4  # JPEG is not exact
