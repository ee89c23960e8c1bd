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
from tutorial import TutorialError, convert, read_model
from tutorial.sources import find_model

KERAS_2_7 = Path(__file__).parents[1] / "data/keras27-nested-xception-tiny.h5"
OWN_LAYERS = Path(__file__).parents[1] / "data/own_layers.py"
LABELS = ["cat", "dog", "bird"]

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of Keras 3, with NumPy 2
]


def make_model(reader, activation="softmax", units=3):
    """Return a small classifier of 8x8 images with weights of a fixed seed."""
    reader.utils.set_random_seed(1)
    layers = reader.layers
    return reader.Sequential(
        [
            layers.Input((8, 8, 3), name="photo"),
            layers.Conv2D(4, 3, strides=2),
            layers.GlobalAveragePooling2D(),
            layers.Dense(units, activation=activation, name="animal"),
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
    return read_model.open_saved_model(tmp_path / "saved")[0], tmp_path / "saved"


def test_both_signatures_have_the_names_and_the_scores_of_the_keras_model(model, saved):
    signature = convert.read_signature(saved[0], "serving_default", LABELS)
    assert (signature.input_name, signature.output_name) == ("photo", "animal")
    assert (signature.image_shape, signature.dtype) == ((8, 8, 3), "float32")
    scores = convert.check_scores(signature, model, scaling("xception"))
    assert scores.shape == (convert.IMAGES, 3)
    convert.check_as_served(saved[1], signature)
    assert convert.kind_of_scores(signature, LABELS) == "probabilities"
    uint8 = convert.read_signature(saved[0], "serving_uint8", LABELS, "uint8")
    convert.check_uint8_scores(uint8, signature, scaling("xception"))


def test_other_scores_are_noticed(saved):
    signature = convert.read_signature(saved[0], "serving_default", LABELS)
    uint8 = convert.read_signature(saved[0], "serving_uint8", LABELS, "uint8")
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        convert.check_scores(signature, make_model(tf_keras, activation=None), scaling("xception"))
    with pytest.raises(TutorialError, match="changed the scores by up to 0"):
        convert.check_uint8_scores(uint8, signature, scaling("unit"))


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
@pytest.mark.parametrize("reader", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_a_file_is_loaded_by_the_keras_that_wrote_it(tmp_path, reader, suffix):
    original = make_model(reader)
    path = tmp_path / f"model{suffix}"
    original.save(path)
    loaded = read_model.load_model(path)
    assert read_model.keras_version(path) == reader.__version__
    assert isinstance(loaded, reader.Model)
    images = np.ones((2, 8, 8, 3), np.float32)
    np.testing.assert_allclose(loaded(images), original(images), rtol=1e-6)


def test_a_file_of_keras_2_7_gives_its_own_scores():
    assert read_model.keras_version(KERAS_2_7).startswith("2.7")
    images = np.random.RandomState(0).uniform(-1, 1, (2, 299, 299, 3)).astype("float32")
    expected = np.load(KERAS_2_7.with_suffix(".expected.npz"))["y"]
    scores = read_model.load_model(KERAS_2_7)(images, training=False)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_a_saved_model_is_called_as_a_keras_model(model, saved):
    loaded = read_model.load_model(saved[1])
    images = np.ones((2, 8, 8, 3), np.float32)
    [scores] = loaded(images).values()
    np.testing.assert_allclose(scores, model(images), rtol=1e-5)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "half.h5"
    make_model(tf_keras).save(tmp_path / "whole.h5")
    path.write_bytes((tmp_path / "whole.h5").read_bytes()[:5000])
    with pytest.raises(TutorialError, match=f"{path} cannot be read as a Keras model: .") as caught:
        read_model.load_model(path)
    assert "\n" not in str(caught.value)


class Model:
    """Has an input of a shape, and gives two outputs."""

    def __init__(self, *shape):
        self.inputs = [tf.TensorSpec((None, *shape), tf.float32, "x")]

    def __call__(self, images, training):
        return {"map": images, "scores": tf.reduce_mean(images, axis=(1, 2))}


def test_two_inputs_are_named():
    one, two = (keras.layers.Input((8, 8, 3), name=name) for name in ("left", "right"))
    with pytest.raises(TutorialError, match=r"one input, but the model has 2: left, right. Build"):
        convert.float_signature(keras.Model([one, two], keras.layers.Add()([one, two])))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((5,), r"x has shape \(None, 5\): it takes no pictures"),
        ((None, None, 3), r"shape \(None, None, None, 3\); .* set SIZE=224, or SIZE=224x160"),
        ((8, 8, 7), r"shape \(None, 8, 8, 7\); supported: .* \(1, 3, 4\) colours"),
    ],
)
def test_an_input_that_takes_no_pictures_is_refused(shape, words):
    with pytest.raises(TutorialError, match=words):
        convert.float_signature(Model(*shape))


@pytest.mark.parametrize(
    ("shape", "size", "served"),
    [
        ((8, 6, 3), "", (8, 6, 3)),
        ((3, 8, 6), "", (8, 6, 3)),
        ((8, 6, 1), "", (8, 6, 1)),
        ((None, None, 3), "224", (224, 224, 3)),
        ((None, None, 3), "224x160", (224, 160, 3)),
    ],
)
def test_the_signature_takes_pictures_of_a_known_size(shape, size, served):
    [spec] = convert.float_signature(Model(*shape), size=size).input_signature
    assert spec.shape[1:] == served


@pytest.mark.parametrize("reader", [keras, tf_keras])
def test_an_output_has_the_name_of_its_layer_if_another_layer_comes_last(reader):
    photo, twice = reader.layers.Input((8, 8, 3)), reader.layers.ReLU(name="animal")
    scores = twice(reader.layers.Dense(3)(reader.layers.Flatten()(twice(photo))))
    model = reader.Model(photo, scores)
    assert model.layers[-1].name != "animal"
    signature = convert.float_signature(model).get_concrete_function()
    assert list(signature.structured_outputs) == ["animal"]


def test_a_number_of_labels_that_fits_no_output_is_refused(saved):
    with pytest.raises(TutorialError, match=r"4 labels need one output .* {'animal': .None, 3.}"):
        convert.read_signature(saved[0], "serving_default", [*LABELS, "fish"])


def test_an_output_that_does_not_exist_is_named_with_those_that_do(model):
    with pytest.raises(TutorialError, match="no output 'plant', only: animal"):
        convert.float_signature(model, output="plant")


def test_a_model_that_is_no_classifier_is_refused():
    spec = {"map": tf.TensorSpec((None, 8, 8, 2)), "boxes": tf.TensorSpec((None, 9, 4))}
    images = {"x": tf.TensorSpec((None, 8, 8, 3))}
    function = SimpleNamespace(structured_input_signature=((), images), structured_outputs=spec)
    with pytest.raises(TutorialError, match=r"no classifier.*'map': \(None, 8, 8, 2\).*Detection"):
        convert.read_signature({"serve": function}, "serve", LABELS)


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


def test_a_missing_signature_is_named_with_those_that_exist(saved):
    with pytest.raises(TutorialError, match="no signature 'x': set SIGNATURE=serving_default or"):
        read_model.load_model(saved[1], "x")


@pytest.mark.parametrize(
    ("name", "legal"),
    [("input_8", "input_8"), ("my-image.1", "my_image_1"), ("a b", "a_b"), ("class", "x_class")],
)
def test_a_name_that_tensorflow_would_change_is_made_legal(name, legal):
    assert convert._legal_name(name) == legal


def test_scores_are_compared_relative_to_the_largest_of_their_image():
    expected = np.array([[1000.0, 0.01], [1e-3, 0]])
    convert._compare(expected + np.array([[0.09, 0.09], [0, 0]]), expected)
    with pytest.raises(TutorialError, match=r"changed the scores by up to 1e-06"):
        convert._compare(expected + np.array([[0, 0], [1e-6, 0]]), expected)


def test_a_folder_that_is_no_saved_model_is_refused(tmp_path):
    with pytest.raises(TutorialError, match=r"the SavedModel cannot be read: ."):
        read_model.open_saved_model(tmp_path)


def averaged(activation):
    """Return a model that ends in the mean of two layers."""
    one, other = (make_model(tf_keras, activation) for _ in range(2))
    image = tf_keras.layers.Input((8, 8, 3))
    mean = tf_keras.layers.Average(name="animal")([one(image), other(image)])
    return tf_keras.Model(image, mean)


def side_by_side():
    """Return a model of three softmaxes, each over two labels."""
    image = keras.Input((8, 8, 3))
    pairs = keras.layers.Reshape((3, 2))(keras.layers.Dense(6)(keras.layers.Flatten()(image)))
    return keras.Model(image, keras.layers.Flatten(name="animal")(keras.layers.Softmax()(pairs)))


def joined():
    """Return a model whose scores are sums of four probabilities."""
    image = keras.Input((8, 8, 3))
    four = keras.layers.Dense(4, "softmax")(keras.layers.Flatten()(image))
    join = keras.layers.Dense(3, use_bias=False, name="animal")
    model = keras.Model(image, join(four))
    join.kernel.assign([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    return model


def squeezed():
    """Return a model whose scores are logits, and always between 0 and 1."""
    model = make_model(keras, None)
    normal = keras.layers.LayerNormalization()(model.outputs[0])
    return keras.Model(model.inputs, keras.layers.Rescaling(0.01, 0.5)(normal))


def signature_of(model, folder, labels=LABELS):
    """Return the signature of the model as a SavedModel."""
    convert.save_model(model, {"serve": convert.float_signature(model)}, folder / "saved")
    functions, _ = read_model.open_saved_model(folder / "saved")
    return convert.read_signature(functions, "serve", labels)


@pytest.mark.parametrize(
    ("make", "chosen", "kind"),
    [
        (lambda: make_model(tf_keras, "softmax"), "", "probabilities"),
        (lambda: make_model(keras, "sigmoid"), "", "independent"),
        (lambda: make_model(keras, None), "", "logits"),
        (lambda: averaged("softmax"), "", "probabilities"),
        (lambda: averaged(None), "", "logits"),
        (lambda: averaged("sigmoid"), "independent", "independent"),
        (squeezed, "logits", "logits"),
        (joined, "", "probabilities"),
    ],
)
def test_kind_of_scores(make, chosen, kind, tmp_path):
    assert convert.kind_of_scores(signature_of(make(), tmp_path), LABELS, chosen) == kind


@pytest.mark.parametrize(
    ("make", "labels", "chosen", "words"),
    [
        (lambda: make_model(keras, "softmax", 1), ["a", "b"], "", "always 1: train a sigmoid"),
        (lambda: make_model(keras, None, 1), ["a"], "", "LABELS=other,a"),
        (squeezed, LABELS, "", "set SCORES=independent if .*, or SCORES=logits"),
        (side_by_side, [*"abcdef"], "", "set SCORES=independent if"),
        (lambda: make_model(keras, None), LABELS, "independent", "gives logits. Put Activation"),
    ],
)
def test_scores_that_do_not_say_what_they_mean_are_refused(make, labels, chosen, words, tmp_path):
    signature = signature_of(make(), tmp_path, labels)
    with pytest.raises(TutorialError, match=words):
        convert.kind_of_scores(signature, labels, chosen)


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
