"""The starter model keeps what its card promises, and knows the sample pictures."""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import tf_keras
from keras_image_helper import create_preprocessor

from tutorial.services import ROOT
from tutorial.sources import CLOTHES
from tutorial.training import RESIZE_COST, calibration, count_flop, softmax

FILE = ROOT / "starter/starter.h5"
LABELS = CLOTHES.split(",")


@pytest.fixture(scope="module")
def model():
    return tf_keras.models.load_model(FILE)


def test_starter_file_keeps_its_limits_and_its_card_is_right(model):
    assert FILE.stat().st_size <= 15_000_000
    assert (model.input_names, model.input_shape) == (["input_8"], (None, 299, 299, 3))
    assert (model.output_names, model.output_shape) == (["dense_7"], (None, len(LABELS)))
    cost = count_flop(model)
    assert cost <= 0.5e9

    card = (FILE.parent / "README.md").read_text(encoding="utf-8")
    assert f"{model.count_params():,} parameters" in card
    assert f"{cost / 1e9:.2f} GFLOP" in card


@pytest.mark.parametrize("label", LABELS)
def test_starter_recognises_the_sample(label, model):
    preprocessor = create_preprocessor("xception", target_size=(299, 299))
    image = preprocessor.from_path(str(FILE.parent / f"samples/{label}.jpg"))
    (probabilities,) = softmax(np.asarray(model(image)))
    assert LABELS[probabilities.argmax()] == label
    first, second = sorted(probabilities)[:-3:-1]
    assert first > 2 * second


def test_calibration_returns_the_gap_between_stated_and_right():
    probabilities = np.array([[0.95, 0.05]] * 4 + [[0.6, 0.4]] * 4)
    error, rows = calibration(probabilities, np.array([0, 0, 0, 1, 0, 0, 0, 1]))
    assert rows == [(pytest.approx(0.6), 0.75, 4), (pytest.approx(0.95), 0.75, 4)]
    assert error == pytest.approx((0.15 + 0.20) / 2)


def test_count_flop_counts_a_multiplication_and_an_addition_as_two():
    image = tf_keras.Input((8, 8, 3))
    convolution = tf_keras.layers.Conv2D(4, 3, padding="same", use_bias=False)
    assert count_flop(tf_keras.Model(image, convolution(image))) == 8 * 8 * 4 * 2 * 3 * 3 * 3
    resized = tf_keras.Model(image, tf_keras.layers.Resizing(4, 4)(image))
    assert count_flop(resized) == RESIZE_COST * 4 * 4 * 3


def test_evaluate_judges_photos_with_and_without_shrinking(tmp_path):
    for label in LABELS:
        (tmp_path / label).mkdir()
        shutil.copy(FILE.parent / f"samples/{label}.jpg", tmp_path / label)
    command = [sys.executable, FILE.parent / "evaluate.py", tmp_path, "--enlarge", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.count("10 of 10 photos right: 1.000") == 2
