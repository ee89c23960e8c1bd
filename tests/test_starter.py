"""The starter model's file, its card and its sample pictures."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STARTER = Path(__file__).parents[1] / "starter"
LABELS = [
    "dress",
    "hat",
    "longsleeve",
    "outwear",
    "pants",
    "shirt",
    "shoes",
    "shorts",
    "skirt",
    "t-shirt",
]
SAMPLES = sorted((STARTER / "samples").glob("*.jpg"))


@pytest.fixture(scope="module")
def model():
    import tf_keras

    return tf_keras.models.load_model(STARTER / "starter.h5")


@pytest.fixture(scope="module")
def draw_samples():
    spec = importlib.util.spec_from_file_location("draw_samples", STARTER / "draw_samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_samples_are_small_pictures_of_clothes():
    names = {path.stem for path in SAMPLES}
    assert {"t-shirt", "pants"} <= names <= set(LABELS)
    assert len(names) >= 5
    for path in SAMPLES:
        assert path.stat().st_size <= 40_000
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (400, 533))


def test_the_samples_are_what_the_script_draws(draw_samples):
    assert {path.stem for path in SAMPLES} == set(draw_samples.PICTURES)
    for name in ("hat", "pants"):
        drawn = np.asarray(draw_samples.PICTURES[name]().convert("RGB"), dtype=float)
        with Image.open(STARTER / "samples" / f"{name}.jpg") as image:
            stored = np.asarray(image, dtype=float)
        assert abs(drawn - stored).mean() < 4  # JPEG is not exact


@pytest.mark.tensorflow
def test_the_file_keeps_its_promises(model):
    from tutorial.training import count_flop

    assert (STARTER / "starter.h5").stat().st_size <= 10_000_000
    assert (model.input_names, model.input_shape) == (["input_8"], (None, 299, 299, 3))
    assert (model.output_names, model.output_shape) == (["dense_7"], (None, len(LABELS)))
    cost = count_flop(model)
    assert cost <= 0.5e9

    card = (STARTER / "README.md").read_text(encoding="utf-8")
    assert f"{model.count_params():,} parameters" in card
    assert f"{cost / 1e9:.2f} GFLOP" in card


@pytest.mark.tensorflow
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_model_recognises_the_sample(model, path):
    from keras_image_helper import create_preprocessor

    from tutorial.training import softmax

    preprocessor = create_preprocessor("xception", target_size=(299, 299))
    (probabilities,) = softmax(np.asarray(model(preprocessor.from_path(str(path)))))
    assert LABELS[probabilities.argmax()] == path.stem
    first, second = sorted(probabilities)[:-3:-1]
    assert first > 1.5 * second


def test_the_card_shows_pictures_that_exist():
    card = (STARTER / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", card)
    assert "confusion.png" in pictures
    for picture in pictures:
        assert (STARTER / picture).is_file(), picture


@pytest.mark.tensorflow
def test_calibration_is_the_gap_between_claim_and_truth():
    from tutorial.training import calibration

    probabilities = np.array([[0.95, 0.05]] * 4 + [[0.6, 0.4]] * 4)
    error, rows = calibration(probabilities, np.array([0, 0, 0, 1, 0, 0, 0, 1]))
    assert rows == [(pytest.approx(0.6), 0.75, 4), (pytest.approx(0.95), 0.75, 4)]
    assert error == pytest.approx((0.15 + 0.20) / 2)


@pytest.mark.tensorflow
def test_a_multiplication_and_an_addition_count_as_two():
    import tf_keras as keras

    from tutorial.training import RESIZE_COST, count_flop

    image = keras.Input((8, 8, 3))
    convolution = keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    assert count_flop(keras.Model(image, convolution(image))) == 8 * 8 * 4 * 2 * 3 * 3 * 3
    resized = keras.Model(image, keras.layers.Resizing(4, 4)(image))
    assert count_flop(resized) == RESIZE_COST * 4 * 4 * 3
