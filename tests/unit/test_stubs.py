"""Unit tests use the generated gRPC code alone, and start in a second without TensorFlow."""

import sys
from pathlib import Path

import tensorflow
import tensorflow_serving

from tutorial.services import STUBS


def test_unit_tests_do_not_load_tensorflow():
    for package in (tensorflow, tensorflow_serving):
        assert Path(package.__file__).is_relative_to(STUBS), "run tests/unit alone"
    assert "tensorflow.python" not in sys.modules
