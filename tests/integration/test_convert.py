"""The steps of the conversion, called without a notebook."""

import os
import runpy
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
import tf_keras
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from gateway.preprocessing import scaling
from tutorial import TutorialError, convert, read_model, verify
from tutorial.sources import find_model

KERAS_2_7 = Path(__file__).parents[1] / "data/keras27-nested-xception-tiny.h5"
OWN_LAYERS = Path(__file__).parents[1] / "data/own_layers.py"
LABELS = ["cat", "dog", "bird"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of Keras 3, with NumPy 2
]


def make_model(reader, activation="softmax"):
    """Return a small classifier of 8x8 images with weights of a fixed seed."""
    reader.utils.set_random_seed(1)
    layers = reader.layers
    return reader.Sequential(
        [
            layers.Input((8, 8, 3), name="photo"),
            layers.Conv2D(4, 3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, activation=activation, name="animal"),
        ]
    )


@pytest.fixture
def saved(tmp_path):
    """A SavedModel with both signatures: (its functions, the folder)."""
    model = make_model(tf_keras)
    default = convert.float_signature(model)
    signatures = {
        "serving_default": default,
        "serving_uint8": convert.uint8_signature(default, scaling("xception")),
    }
    convert.save_model(model, signatures, tmp_path / "saved")
    return read_model.open_saved_model(tmp_path / "saved")[0], tmp_path / "saved"


def test_other_scores_are_noticed(saved):
    signature = read_model.read_signature(saved[0], "serving_default", LABELS)
    uint8 = read_model.read_signature(saved[0], "serving_uint8", LABELS)
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        verify.check_scores(signature, make_model(tf_keras, activation=None), scaling("xception"))
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        verify.check_uint8_scores(uint8, signature, scaling("unit"))


def test_a_file_of_keras_2_7_gives_its_own_scores():
    assert read_model.keras_version(KERAS_2_7).startswith("2.7")
    images = np.random.RandomState(0).uniform(-1, 1, (2, 299, 299, 3)).astype("float32")
    expected = np.load(KERAS_2_7.with_suffix(".expected.npz"))["y"]
    scores = read_model.load_model(KERAS_2_7)(images, training=False)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("reader", [keras, tf_keras])
def test_an_output_has_the_name_of_its_layer_if_another_layer_comes_last(reader):
    photo, twice = reader.layers.Input((8, 8, 3)), reader.layers.ReLU(name="animal")
    scores = twice(reader.layers.Dense(3)(reader.layers.Flatten()(twice(photo))))
    model = reader.Model(photo, scores)
    assert model.layers[-1].name != "animal"
    signature = convert.float_signature(model).get_concrete_function()
    assert list(signature.structured_outputs) == ["animal"]


@pytest.fixture
def own_code(tmp_path):
    """Paths of models with code of one's own: a dict from the path to what it is called."""
    own = SimpleNamespace(**runpy.run_path(str(OWN_LAYERS)))
    square = {"activation": own.sharp}
    layers = {
        "layer.keras": (keras, own.Halve(), "Halve"),
        "activation.keras": (keras, keras.layers.Conv2D(3, 1, **square), "sharp"),
        "layer.h5": (tf_keras, own.Third(), "Third"),
        "activation.h5": (tf_keras, tf_keras.layers.Conv2D(3, 1, **square), "sharp"),
    }
    models = {}
    for name, (reader, layer, word) in layers.items():
        model = reader.Sequential([reader.layers.Input((8, 8, 3)), layer, make_model(reader)])
        model.save(tmp_path / name)
        models[tmp_path / name] = (word, model)
    subclassed = own.Pets()
    subclassed(np.ones((1, 8, 8, 3)))
    subclassed.save(tmp_path / "subclassed.keras")
    models[tmp_path / "subclassed.keras"] = ("Pets", subclassed)
    keras.saving.get_custom_objects().clear()
    return models


def test_code_of_ones_own_is_named_and_can_be_given(own_code):
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype("float32")
    for path, (word, original) in own_code.items():
        with pytest.raises(
            TutorialError, match=f"{path} uses {word}, which .*export.*CUSTOM_OBJECTS=module.py"
        ):
            read_model.load_model(path)
        model = read_model.load_model(path, custom_objects=str(OWN_LAYERS))
        np.testing.assert_allclose(model(images), original(images), rtol=1e-5)
    with pytest.raises(TutorialError, match=r"does not say what it takes. Run model.export"):
        convert.float_signature(model)  # a subclassed one


def test_code_of_ones_own_that_fails_is_named(own_code, tmp_path):
    (tmp_path / "module.py").write_text("import absent_module")
    with pytest.raises(TutorialError, match=r"module.py fails with ModuleNotFoundError: No module"):
        read_model.load_model(next(iter(own_code)), custom_objects=str(tmp_path / "module.py"))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("reader", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_lambda_layer_is_refused_unless_the_file_is_trusted(tmp_path, reader, suffix):
    path = tmp_path / f"model{suffix}"
    halve = reader.layers.Lambda(lambda x: x * 0.5, output_shape=(8, 8, 3))
    reader.Sequential([reader.layers.Input((8, 8, 3)), halve]).save(path)
    with pytest.raises(TutorialError, match=r"a Lambda layer, .*export.*TRUSTED=1"):
        find_model(str(path))
    with pytest.raises(TutorialError, match="a Lambda layer"):
        read_model.load_model(path)
    assert find_model(str(path), "1") == path
    model = read_model.load_model(path, trusted="1")
    np.testing.assert_array_equal(
        model(np.ones((1, 8, 8, 3), np.float32)), np.full((1, 8, 8, 3), 0.5)
    )


def test_weights_only_are_named(tmp_path):
    make_model(keras).save_weights(tmp_path / "a.weights.h5")
    make_model(tf_keras).save_weights(tmp_path / "b.h5")
    make_model(tf_keras).save_weights(tmp_path / "c")
    for name, trusted in product(("a.weights.h5", "b.h5", "c"), ("", "1")):
        with pytest.raises(TutorialError, match=f"{name} (is a checkpoint: it )?has only weights"):
            find_model(str(tmp_path / name), trusted)


def test_a_h5_file_without_a_version_is_read_as_keras_2(tmp_path):
    path = tmp_path / "old.h5"
    make_model(tf_keras).save(path)
    with h5py.File(path, "a") as file:
        del file.attrs["keras_version"]
    assert isinstance(read_model.load_model(path), tf_keras.Model)


def test_scores_are_compared_relative_to_the_largest_of_their_image():
    expected = np.array([[1000.0, 0.01], [1e-3, 0]])
    verify.compare_scores(expected + np.array([[0.09, 0.09], [0, 0]]), expected)
    with pytest.raises(TutorialError, match=r"changed the scores by up to 1e-06"):
        verify.compare_scores(expected + np.array([[0, 0], [1e-6, 0]]), expected)


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(TutorialError, match=r"the SavedModel cannot be read: ."):
        read_model.open_saved_model(tmp_path)


def test_the_warmup_file_has_a_request_for_each_signature(saved):
    functions, folder = saved
    signatures = [
        read_model.read_signature(functions, "serving_default", LABELS),
        read_model.read_signature(functions, "serving_uint8", LABELS),
    ]
    path = convert.write_warmup(folder, "animals", signatures)
    assert path == folder / "assets.extra/tf_serving_warmup_requests"
    records = [
        PredictionLog.FromString(record.numpy()).predict_log.request
        for record in tf.data.TFRecordDataset(str(path))
    ]
    for request, signature in zip(records, signatures, strict=True):
        assert request.model_spec.name == "animals"
        assert request.model_spec.signature_name == signature.name
        images = tf.make_ndarray(request.inputs["photo"])
        assert (images.shape, images.dtype) == ((1, 8, 8, 3), signature.dtype)
