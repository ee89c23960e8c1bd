"""The steps of the conversion, called without a notebook."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
import tf_keras
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from gateway.preprocessing import scaling
from tutorial import TutorialError, convert

KERAS_2_7 = Path(__file__).parents[1] / "data/keras27-nested-xception-tiny.h5"
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


@pytest.fixture(scope="module", params=[keras, tf_keras], ids=["keras", "tf_keras"])
def model(request):
    return make_model(request.param)


@pytest.fixture
def saved(model, tmp_path):
    """The model as a SavedModel with both signatures: (its functions, the folder)."""
    default = convert.float_signature(model)
    signatures = {
        "serving_default": default,
        "serving_uint8": convert.uint8_signature(default, scaling("xception")),
    }
    convert.save_model(model, signatures, tmp_path / "saved")
    return convert.open_saved_model(tmp_path / "saved"), tmp_path / "saved"


def test_both_signatures_have_the_names_and_the_scores_of_the_keras_model(model, saved):
    signature = convert.read_signature(saved[0], "serving_default", LABELS)
    assert (signature.input_name, signature.output_name) == ("photo", "animal")
    assert (signature.image_shape, signature.dtype) == ((8, 8, 3), "float32")
    scores = convert.check_scores(signature, model)
    assert scores.shape == (convert.IMAGES, 3)
    assert convert.kind_of_scores(scores) == "probabilities"
    uint8 = convert.read_signature(saved[0], "serving_uint8", LABELS, "uint8")
    convert.check_uint8_scores(uint8, signature, scaling("xception"))


def test_other_scores_are_noticed(saved):
    signature = convert.read_signature(saved[0], "serving_default", LABELS)
    uint8 = convert.read_signature(saved[0], "serving_uint8", LABELS, "uint8")
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        convert.check_scores(signature, make_model(tf_keras, activation=None))
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        convert.check_uint8_scores(uint8, signature, scaling("unit"))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("reader", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_file_is_loaded_by_the_keras_that_wrote_it(tmp_path, reader, suffix):
    original = make_model(reader)
    path = tmp_path / f"model{suffix}"
    original.save(path)
    loaded = convert.load_model(path)
    assert convert.keras_version(path) == reader.__version__
    assert isinstance(loaded, reader.Model)
    images = np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(loaded(images), original(images), rtol=1e-6)


def test_a_file_of_keras_2_7_gives_its_own_scores():
    assert convert.keras_version(KERAS_2_7).startswith("2.7")
    images = np.random.RandomState(0).uniform(-1, 1, (2, 299, 299, 3)).astype("float32")
    expected = np.load(KERAS_2_7.with_suffix(".expected.npz"))["y"]
    scores = convert.load_model(KERAS_2_7)(images, training=False)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_needs_no_loading(saved):
    assert convert.load_model(saved[1]) is None


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "half.h5"
    make_model(tf_keras).save(tmp_path / "whole.h5")
    path.write_bytes((tmp_path / "whole.h5").read_bytes()[:5000])
    with pytest.raises(TutorialError, match=f"{path} cannot be read as a Keras model: .") as caught:
        convert.load_model(path)
    assert "\n" not in str(caught.value)


def test_scaling_that_tensorflow_cannot_trace_gives_no_second_signature():
    default = convert.float_signature(make_model(tf_keras))
    assert convert.uint8_signature(default, scaling("resnet50")) is None


def test_a_model_with_two_inputs_is_refused():
    one, two = (keras.layers.Input((8, 8, 3)) for _ in range(2))
    with pytest.raises(TutorialError, match="one input and one output"):
        convert.float_signature(keras.Model([one, two], keras.layers.Add()([one, two])))


IMAGES = tf.TensorSpec((None, 8, 8, 3), tf.float32, "x")


@pytest.mark.parametrize(
    ("specs", "outputs", "words"),
    [
        ([IMAGES, tf.TensorSpec((), tf.float32, "y")], 3, "serve has 2 inputs"),
        ([tf.TensorSpec((None, 5), tf.float32, "x")], 3, r"x has shape \(5,\)"),
        ([tf.TensorSpec((None, None, None, 3), tf.float32, "x")], 3, r"shape \(None, None, 3\)"),
        ([tf.TensorSpec((None, 8, 8, 1), tf.float32, "x")], 3, r"shape \(8, 8, 1\)"),
        ([tf.TensorSpec((None, 8, 8, 3), tf.uint8, "x")], 3, "x has dtype uint8; supported: float"),
        ([IMAGES], 2, "3 labels need one output of that width; there is {'y': "),
    ],
    ids=["inputs", "flat", "open size", "grey", "dtype", "labels"],
)
def test_a_signature_that_a_gateway_cannot_use_is_refused(tmp_path, specs, outputs, words):
    names = [spec.name for spec in specs]

    @tf.function(input_signature=specs)
    def serve(*inputs):
        first = tf.cast(tf.reshape(inputs[0], (-1, 1)), tf.float32)
        return {"y": tf.repeat(first, outputs, axis=1) + sum(len(name) for name in names)}

    tf.saved_model.save(tf.Module(), tmp_path / "m", signatures={"serve": serve})
    functions = convert.open_saved_model(tmp_path / "m")
    with pytest.raises(TutorialError, match=words):
        convert.read_signature(functions, "serve", LABELS)


def test_a_missing_signature_is_named_with_those_that_exist(saved):
    with pytest.raises(TutorialError, match="no signature 'x'; it has: serving_default, serving_u"):
        convert.read_signature(saved[0], "x", LABELS)


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(TutorialError, match=r"the SavedModel cannot be read: ."):
        convert.open_saved_model(tmp_path)


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([[0.25, 0.75], [1, 0]], "probabilities"),
        ([[0.25, 0.75], [1, 1]], "logits"),
        ([[-0.5, 1.5]], "logits"),
    ],
)
def test_kind_of_scores(rows, kind):
    assert convert.kind_of_scores(np.array(rows)) == kind


def test_the_warmup_file_has_a_request_for_each_signature(saved):
    functions, folder = saved
    signatures = [
        convert.read_signature(functions, "serving_default", LABELS),
        convert.read_signature(functions, "serving_uint8", LABELS, "uint8"),
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
