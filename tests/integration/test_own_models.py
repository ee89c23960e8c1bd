"""Models of one's own: the gateway gives the scores of Keras's predict for the same picture.

Lesson 01's cells convert the models in this process. One model server serves all of them.
"""

import os
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
import tf_keras

from gateway.app import create_app
from tests.pictures import encoded, noise
from tutorial import TutorialError, read_model, services
from tutorial.notebooks import run_cells
from tutorial.processes import free_port

LESSON = services.ROOT / "notebooks/01-convert-model.ipynb"
DATA = services.ROOT / "tests/data"
SIZE = (24, 20)
THREE = "cat,dog,bird"

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of Keras 3, with NumPy 2
]


def run_lesson(**parameters: object) -> None:
    """Run lesson 01's code cells, up to its ending, in this process."""
    run_cells(LESSON, parameters, until="## When it goes wrong")


def to_one(pixels: np.ndarray) -> np.ndarray:
    """Return pixels of 0 to 255 as 0 to 1."""
    return pixels / 255


@dataclass
class Case:
    """A model, the settings for it, and what Keras does with a picture's pixels."""

    save: Callable[[Path], None]
    predict: Callable[[np.ndarray], np.ndarray]
    scale: Callable[[np.ndarray], np.ndarray] = to_one
    settings: dict[str, str] = field(default_factory=lambda: {"PREPROCESSING": "unit"})
    labels: str = THREE
    file: str = "model.keras"
    kind: str = "probabilities"
    mode: str = "RGB"
    how: str = ""  # of tf.image.resize; "" for load_img


def classifier(
    reader=keras, *, units=3, activation="softmax", first=(), shape=(*SIZE, 3), **options
):
    """Return a small model with random weights; `options` are the input's."""
    reader.utils.set_random_seed(1)
    layers = reader.layers
    inputs = layers.Input(shape, **options)
    x = inputs
    for layer in first:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, strides=2, activation="relu")(x))
    return reader.Model(inputs, layers.Dense(units, activation=activation)(x))


def of(model, **options) -> Case:
    """Return the case of a Keras model that is saved as a file."""
    return Case(model.save, lambda array: np.asarray(model.predict(array, verbose=0)), **options)


def with_policy(name: str) -> keras.Model:
    """Return a classifier whose layers compute, and answer, in another precision."""
    keras.mixed_precision.set_global_policy(name)
    try:
        return classifier()
    finally:
        keras.mixed_precision.set_global_policy("float32")


def folder(model, save: Callable) -> Case:
    """Return the case of a Keras model that is saved as a SavedModel."""
    return Case(
        lambda path: save(model, path), lambda array: np.asarray(model(array)), file="saved"
    )


def in_style(name: str, reader=keras) -> Case:
    """Return a case with the preprocessing of a Keras family."""
    family = getattr(reader.applications, name)
    suffix = "keras" if reader is keras else "h5"
    return of(
        classifier(reader, activation=None),
        scale=lambda pixels: family.preprocess_input(pixels.copy()),
        settings={"PREPROCESSING": name},
        file=f"model.{suffix}",
        kind="logits",
    )


def resized(how: str) -> Case:
    """Return a case with another way to resize."""
    return of(classifier(), settings={"PREPROCESSING": "unit", "RESIZE": how}, how=how)


def with_outputs(outputs: dict[str, int], OUTPUT: str = "species") -> Case:
    """Return a case with a dict of named outputs, of which one is served."""
    base = classifier()
    heads = {
        name: keras.layers.Dense(units, activation="softmax")(base.layers[-2].output)
        for name, units in outputs.items()
    }
    model = keras.Model(base.input, heads)
    settings = {"PREPROCESSING": "unit"}
    if OUTPUT != "species":
        settings["OUTPUT"] = OUTPUT
    return Case(
        model.save, lambda array: model.predict(array, verbose=0)[OUTPUT], settings=settings
    )


def uint8_saved_model() -> Case:
    """Return a SavedModel that takes bytes."""
    model = classifier()
    spec = tf.TensorSpec((None, *SIZE, 3), tf.uint8, name="pixels")
    serve = tf.function(
        lambda pixels: {"pets": model(tf.cast(pixels, tf.float32) / 255)}, input_signature=[spec]
    )
    model.served = tf.Module()
    model.served.all = [variable.value for variable in model.variables]
    return Case(
        lambda path: tf.saved_model.save(model.served, path, signatures=serve),
        lambda array: model.predict(array, verbose=0),
        settings={},
        file="saved",
    )


def own_function() -> Case:
    """Return a case with an activation that Keras does not know."""
    file = str(DATA / "own_layers.py")
    return of(
        classifier(first=[keras.layers.Activation(runpy.run_path(file)["sharp"])]),
        settings={"PREPROCESSING": "unit", "CUSTOM_OBJECTS": file},
    )


def sure() -> keras.Model:
    """Return a classifier with one sigmoid that is 1 for almost every picture."""
    model = classifier(units=1, activation="sigmoid")
    model.layers[-1].bias.assign([20])
    return model


def with_two_heads() -> Case:
    """Return a classifier with a second, linear output."""
    base = classifier()
    age = keras.layers.Dense(1, name="age")(base.layers[-2].output)
    model = keras.Model(base.input, [base.output, age])
    return Case(model.save, lambda array: base.predict(array, verbose=0))


def with_names() -> Case:
    """Return a classifier with the name of the best class as a second output."""
    base = classifier()
    lookup = keras.layers.StringLookup(vocabulary=THREE.split(","), invert=True, num_oov_indices=0)
    model = keras.Model(base.input, [base.output, lookup(keras.ops.argmax(base.output, axis=1))])
    return Case(model.save, lambda array: base.predict(array, verbose=0))


def with_lambda_loss() -> keras.Model:
    """Return a classifier that was trained with a lambda, which serving does not need."""
    model = classifier()
    model.compile(loss=lambda labels, scores: keras.ops.mean(scores - labels))
    return model


def with_sides() -> Case:
    """Return a classifier of convolutions, whose scores have a height and a width of one pixel."""
    base = classifier()
    model = keras.Model(base.input, keras.layers.Reshape((1, 1, 3))(base.output))
    return Case(model.save, lambda array: base.predict(array, verbose=0))


def averaged(activation: str | None) -> keras.Model:
    """Return the mean of two classifiers, which end in this activation."""
    image = keras.Input((*SIZE, 3))
    both = [classifier(activation=activation)(image) for _ in range(2)]
    return keras.Model(image, keras.layers.Average()(both))


def followed_by(*layers: Callable, **options) -> Case:
    """Return a classifier with these layers behind it; `options` are the classifier's."""
    model = classifier(**options)
    scores = model.output
    for layer in layers:
        scores = layer(scores)
    return of(keras.Model(model.input, scores))


def squeezed() -> Case:
    """Return a classifier whose logits are always between 0 and 1."""
    normal = keras.layers.LayerNormalization()
    return followed_by(normal, keras.layers.Rescaling(0.1, 0.5), activation=None)


def joined() -> Case:
    """Return a model whose scores are sums of four probabilities."""
    sums = keras.initializers.Constant([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    join = keras.layers.Dense(3, use_bias=False, kernel_initializer=sums)
    return followed_by(join, units=4)


def side_by_side() -> Case:
    """Return a model of three softmaxes, each over two labels."""
    pairs = keras.layers.Reshape((3, 2)), keras.layers.Softmax(), keras.layers.Flatten()
    return followed_by(*pairs, units=6, activation=None)


def plain() -> Case:
    """Return a classifier of three labels."""
    return of(classifier())


def with_ending(ending: str) -> Case:
    """Return a classifier in a .keras file that has another name."""
    model = classifier()

    def save(path: Path) -> None:
        model.save(path.with_suffix(".keras"))
        path.with_suffix(".keras").rename(path)

    return Case(save, lambda array: model.predict(array, verbose=0), file=f"model{ending}")


def saved_function(
    function: Callable, *shape: int | None, signatures: tuple[str, ...] = ("serving_default",)
) -> Case:
    """Return a SavedModel without weights, whose signatures are all this function."""
    spec = tf.TensorSpec(shape or None, name="pixels")
    saved = dict.fromkeys(signatures, tf.function(function, input_signature=[spec]))
    return Case(
        lambda path: tf.saved_model.save(tf.Module(), path, signatures=saved),
        lambda array: function(array)["scores"].numpy(),
        file="saved",
    )


def mean_colours(pixels: tf.Tensor) -> tf.Tensor:
    """Return three scores."""
    return tf.reduce_mean(pixels, axis=(1, 2))


unchanged = {"scale": lambda pixels: pixels, "settings": {}}
CASES = {
    "keras": lambda: of(classifier(), file="best model-0.89.keras"),
    "tf_keras": lambda: of(classifier(tf_keras), file="model.h5"),
    "caffe": lambda: in_style("vgg16"),
    "caffe in tf_keras": lambda: in_style("resnet50", tf_keras),
    "torch": lambda: in_style("densenet"),
    "tf": lambda: in_style("mobilenet_v2"),
    "bilinear": lambda: resized("bilinear"),
    "bicubic": lambda: resized("bicubic"),
    "area": lambda: resized("area"),
    "scales itself": lambda: of(
        classifier(first=[keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)]), **unchanged
    ),
    "normalizes itself": lambda: of(
        classifier(first=[keras.layers.Normalization(mean=[90, 120, 150], variance=[900] * 3)]),
        **unchanged,
    ),
    "preprocesses itself": lambda: of(
        classifier(tf_keras, first=[tf_keras.applications.vgg16.preprocess_input]),
        file="model.h5",
        scale=unchanged["scale"],
        settings={"PREPROCESSING": "none"},
    ),
    "one sigmoid": lambda: of(
        classifier(units=1, activation="sigmoid"), labels="cat,dog", kind="independent"
    ),
    "one sure sigmoid": lambda: of(sure(), labels="cat,dog", kind="independent"),
    "one sigmoid, one label": lambda: of(
        classifier(units=1, activation="sigmoid"), labels="dog", kind="independent"
    ),
    "one logit": lambda: of(classifier(units=1, activation=None), labels="cat,dog", kind="logits"),
    "sigmoids": lambda: of(classifier(activation="sigmoid"), kind="independent"),
    "half output": lambda: of(with_policy("mixed_float16")),
    "bfloat16 output": lambda: of(with_policy("mixed_bfloat16")),
    "tf.saved_model.save": lambda: folder(classifier(), tf.saved_model.save),
    "tf_keras SavedModel": lambda: folder(classifier(tf_keras), tf.saved_model.save),
    "export": lambda: folder(classifier(), lambda model, path: model.export(path, verbose=False)),
    "grey": lambda: of(classifier(shape=(*SIZE, 1)), mode="L"),
    "grey, bilinear": lambda: of(
        classifier(shape=(*SIZE, 1)),
        settings={"PREPROCESSING": "unit", "RESIZE": "bilinear"},
        mode="L",
        how="bilinear",
    ),
    "transparency": lambda: of(classifier(shape=(*SIZE, 4)), mode="RGBA"),
    "channels first": lambda: of(
        classifier(shape=(3, *SIZE), first=[keras.layers.Permute((2, 3, 1))]),
        scale=lambda pixels: pixels.transpose(0, 3, 1, 2) / 255,
    ),
    "any size": lambda: of(
        classifier(shape=(None, None, 3)), settings={"PREPROCESSING": "unit", "SIZE": "24x20"}
    ),
    "takes uint8": lambda: of(
        classifier(first=[keras.layers.Rescaling(1 / 255)], dtype="uint8"),
        scale=lambda pixels: pixels.astype(np.uint8),
        settings={},
    ),
    "uint8 SavedModel": uint8_saved_model,
    "an operation's softmax": lambda: followed_by(keras.ops.softmax, activation=None),
    "softmax, then a cast": lambda: followed_by(keras.layers.Activation("linear", dtype="float32")),
    "softmax beside a linear output": with_two_heads,
    "scores with sides": with_sides,
    "logits between 0 and 1": lambda: replace(
        squeezed(), settings={"PREPROCESSING": "unit", "SCORES": "logits"}, kind="logits"
    ),
    "mean of softmaxes": lambda: of(averaged("softmax")),
    "mean of logits": lambda: of(averaged(None), kind="logits"),
    "mean of sigmoids": lambda: of(
        averaged("sigmoid"),
        settings={"PREPROCESSING": "unit", "SCORES": "independent"},
        kind="independent",
    ),
    "sums of probabilities": joined,
    "a batch of one": lambda: of(classifier(batch_size=1)),
    "another ending": lambda: with_ending(".zip"),
    "no ending": lambda: with_ending(""),
    "words beside the scores": lambda: saved_function(
        lambda pixels: {"scores": tf.nn.softmax(mean_colours(pixels)), "names": tf.constant("a")},
        *(None, *SIZE, 3),
    ),
    "names beside the scores": with_names,
    "dict output": lambda: with_outputs({"species": 3}),
    "two outputs": lambda: with_outputs({"species": 3, "mood": 2}),
    "two outputs alike": lambda: with_outputs({"species": 3, "mood": 3}, OUTPUT="mood"),
    "labels in a file": lambda: of(
        classifier(),
        settings={"PREPROCESSING": "unit", "LABELS": str(DATA / "class_indices.json")},
    ),
    "own function": own_function,
    "Lambda": lambda: of(
        classifier(first=[keras.layers.Lambda(lambda x: x * 0.5)]),
        settings={"PREPROCESSING": "unit", "TRUSTED": "1"},
    ),
    "lambda for a loss": lambda: of(with_lambda_loss()),
    "input named my-image.1": lambda: of(classifier(name="my-image.1")),
    "input named input image": lambda: of(classifier(name="input image")),
    "input named class": lambda: of(classifier(name="class")),
}


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A photo much larger than the model's input."""
    path = tmp_path_factory.mktemp("picture") / "noise.jpg"
    small = noise("RGB", (40, 30)).resize((400, 300), Image.Resampling.BICUBIC)
    path.write_bytes(encoded(small, "JPEG"))
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Callable:
    """A function from a case's name to (the case, its gateway); it raises a conversion's error."""
    place = tmp_path_factory.mktemp("own")
    cases, failed = {}, {}
    for number, (name, make) in enumerate(CASES.items()):
        cases[name] = case = make()
        source = place / str(number) / case.file
        source.parent.mkdir()
        case.save(source)
        settings = {"LABELS": case.labels, "MODEL_NAME": f"m{number}"} | case.settings
        try:
            run_lesson(MODEL=str(source), MODELS_DIR=str(place / "models"), **settings)
        except Exception as error:
            failed[name] = error
    configs = [
        f'config {{ name: "{folder.name}" base_path: "{folder}" model_platform: "tensorflow" }}'
        for folder in (place / "models").iterdir()
    ]
    (place / "models.config").write_text(f"model_config_list {{ {' '.join(configs)} }}")
    port = free_port()
    command = services.model_server_command(place, port)[:-2]
    command.append(f"--model_config_file={place / 'models.config'}")
    command.append("--tensorflow_intra_op_parallelism=1")  # or each model is measured

    def find(name: str):
        if name in failed:
            raise failed[name]
        contract = place / "models" / f"m{list(CASES).index(name)}" / "contract.json"
        app = create_app(MODEL_ADDRESS=f"127.0.0.1:{port}", CONTRACT=contract)
        return cases[name], app.test_client()

    with services.start_model_server("own models", command, port):
        yield find


def prepared(case: Case, picture: Path) -> np.ndarray:
    """Return the array that a Keras user would make of the picture."""
    if case.how:
        image = np.atleast_3d(np.asarray(Image.open(picture).convert(case.mode)))
        pixels = tf.image.resize(image, SIZE, method=case.how).numpy()
    else:
        colours = {"RGB": "rgb", "L": "grayscale", "RGBA": "rgba"}[case.mode]
        image = keras.utils.load_img(picture, color_mode=colours, target_size=SIZE)
        pixels = keras.utils.img_to_array(image)
    return case.scale(pixels[np.newaxis])


@pytest.mark.parametrize("name", CASES)
def test_gateway_gives_the_scores_of_keras(name, served, picture):
    case, gateway = served(name)
    expected = np.asarray(case.predict(prepared(case, picture)), np.float32)
    labels = case.labels.split(",")
    if len(labels) == 2 and case.kind == "independent":
        expected = np.concatenate([1 - expected, expected], axis=1)
    elif len(labels) == 2:
        expected = np.concatenate([0 * expected, expected], axis=1)
    for endpoint in ("predict", "classify"):
        answer = gateway.post(f"/{endpoint}", data={"file": picture.open("rb")})
        assert answer.status_code == 200, answer.text
        if endpoint == "predict":
            assert list(answer.json) == labels
            np.testing.assert_allclose(
                [list(answer.json.values())], expected, rtol=0, atol=1e-4 * abs(expected).max()
            )
    found = {row["label"]: row["probability"] for row in answer.json["predictions"]}
    if case.kind == "logits":
        expected = np.exp(expected) / np.exp(expected).sum()
    np.testing.assert_allclose([found[label] for label in labels], expected[0], atol=1e-4)


def test_a_missing_preprocessing_is_asked_for(tmp_path):
    classifier().save(tmp_path / "model.keras")
    with pytest.raises(TutorialError, match="set PREPROCESSING as in training: choose tf"):
        run_lesson(MODEL=str(tmp_path / "model.keras"), LABELS=THREE, MODELS_DIR=str(tmp_path))


def sliced(x):
    """Cut the upper and the lower rows off."""
    return x[:, 2:-2]


FIRST = {  # what a model does with pixels first -> whether it scales them
    "a slice": (keras, [sliced], False),
    "a slice of tf_keras": (tf_keras, [sliced], False),
    "a layer that multiplies": (keras, [lambda x: keras.layers.Multiply()([x, x])], False),
    "that layer of tf_keras": (tf_keras, [lambda x: tf_keras.layers.Multiply()([x, x])], False),
    "a mean": (tf_keras, [lambda x: tf.reduce_mean(x, 3, keepdims=True)], False),
    "a normal layer": (keras, [keras.layers.LayerNormalization(axis=(1, 2, 3))], False),
    "0 to 1 scaled": (keras, [keras.layers.Rescaling(2, -1)], False),
    "0 to 1 normalized": (keras, [keras.layers.Normalization(mean=0.4, variance=0.05)], False),
    "bytes scaled": (keras, [sliced, keras.layers.Rescaling(1 / 127.5, -1)], True),
    "bytes normalized": (tf_keras, [tf_keras.layers.Normalization(mean=90, variance=4e3)], True),
    "caffe": (keras, [keras.applications.vgg16.preprocess_input], False),
    "0 to 1 moved": (keras, [lambda pixels: pixels * 2 - 1], False),
    "torch in tf_keras": (tf_keras, [tf_keras.applications.densenet.preprocess_input], False),
}


@pytest.mark.parametrize("name", FIRST)
def test_only_a_model_that_scales_bytes_needs_no_preprocessing(name):
    reader, first, scales = FIRST[name]
    assert read_model.scales_its_input(classifier(reader, first=first)) == scales


def alike() -> Case:
    """Return a model that uses one layer for two outputs."""
    head, inputs = keras.layers.Dense(3, name="head"), keras.layers.Input((*SIZE, 3))
    pools = keras.layers.GlobalMaxPooling2D(), keras.layers.GlobalAveragePooling2D()
    return of(keras.Model(inputs, [head(pool(inputs)) for pool in pools]))


def two_inputs() -> Case:
    """Return a model that adds two pictures."""
    ends = [keras.Input((*SIZE, 3), name=name) for name in ("left", "right")]
    return of(keras.Model(ends, keras.layers.Add()(ends)))


def nested() -> Case:
    """Return a model with a dict in its list of outputs."""
    model = classifier()
    return of(keras.Model(model.input, [{"species": model.output}, model.output]))


def unknown(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Return scores whose shape TensorFlow does not know."""
    return {"scores": tf.py_function(mean_colours, [pixels], tf.float32)}


def fixed_batch() -> Case:
    """Return a model whose operations take two pictures only."""
    inputs = keras.layers.Input(batch_shape=(2, *SIZE, 3))
    x = keras.ops.reshape(inputs, (2, 3 * SIZE[0] * SIZE[1]))
    return of(keras.Model(inputs, keras.layers.Dense(3)(x)))


def random() -> Case:
    """Return a model whose dropout is on when it predicts, too."""
    model = classifier(tf_keras)
    dropped = tf_keras.layers.Dropout(0.5)(model.layers[-2].output, training=True)
    return of(tf_keras.Model(model.input, tf_keras.layers.Dense(3)(dropped)), file="model.h5")


def with_activation(activation: Callable, **options) -> Case:
    """Return a model with an activation behind its input."""
    return of(classifier(first=[keras.layers.Activation(activation, **options)]))


def of_tensorflow_1() -> Case:
    """Return a SavedModel with the variables of TensorFlow 1."""
    v1 = tf.compat.v1

    def save(path: Path) -> None:
        with tf.Graph().as_default(), v1.Session() as session:
            pixels = v1.placeholder(tf.float32, [None, *SIZE, 3], name="pixels")
            weights = v1.Variable(np.eye(3, dtype="float32"), use_resource=False)
            scores = tf.nn.softmax(mean_colours(pixels) @ weights)
            session.run(v1.global_variables_initializer())
            v1.saved_model.simple_save(session, str(path), {"x": pixels}, {"scores": scores})

    return Case(save, mean_colours, file="saved")


REFUSED = {
    "random": (random, {}, "other scores each time: .* such as Dropout, .* training=True"),
    "percent": (
        lambda: followed_by(keras.layers.Rescaling(100)),
        {},
        r"the same sum, .* Add Rescaling\(1 / 100\) as last layer, .* or set SCORES=logits",
    ),
    "a lambda": (
        lambda: with_activation(lambda x: x * 2),
        {"TRUSTED": "1"},
        "a lambda for an activation, which Keras saves but cannot read. Run model.export",
    ),
    "a layer's name": (
        lambda: with_activation("relu", name="größe 1"),
        {},
        "TensorFlow does not take 'größe 1' as a layer's name. Give the layer a name of A-Z",
    ),
    "another size": (
        plain,
        {"SIZE": "30"},
        r"SIZE=30 does not fit: the model takes 24x20 \(height x width\). Leave SIZE out",
    ),
    "another signature": (
        lambda: saved_function(unknown, None, *SIZE, 3, signatures=("classify", "score")),
        {},
        "no signature 'serving_default': set SIGNATURE=classify or SIGNATURE=score",
    ),
    "no signature": (
        lambda: saved_function(unknown, None, *SIZE, 3, signatures=()),
        {},
        "has no signature, which says .* Run model.export",
    ),
    "TensorFlow 1": (of_tensorflow_1, {}, "one of TensorFlow 1, build it with Keras"),
    "a batch of two": (fixed_batch, {}, "4 pictures at once. Build it without a fixed batch"),
    "int8": (
        lambda: of(classifier(dtype="int8", first=[keras.layers.Rescaling(1 / 127)])),
        {},
        "takes int8, .* takes uint8",
    ),
    "two outputs with one name": (alike, {}, "same name: head, head. Build a model"),
    "size 0": (plain, {"SIZE": "0"}, "SIZE=0 is not like 224"),
    "never built": (
        lambda: of(keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])),
        {},
        "saved before it was built, so it has no weights. Train it, or call it on a picture",
    ),
    "one picture": (
        lambda: saved_function(lambda pixels: {"scores": pixels[0, 0]}, *SIZE, 3),
        {},
        r"pixels has shape \(24, 20, 3\): it takes no pictures. Build .* \(batch, height",
    ),
    "any shape": (
        lambda: saved_function(lambda pixels: {"scores": pixels}),
        {},
        "has shape <unknown>: it takes no pictures",
    ),
    "any output": (
        lambda: saved_function(unknown, None, *SIZE, 3),
        {},
        r"not say the shape of its output scores. .* tf.ensure_shape\(scores, \(None, 3\)\)",
    ),
    "two inputs": (two_inputs, {}, r"one input, but the model has 2: left, right\. Build"),
    "no size": (
        lambda: of(classifier(shape=(None, None, 3))),
        {},
        r"shape \(None, None, None, 3\); .* set SIZE=224, or SIZE=224x160",
    ),
    "seven colours": (
        lambda: of(classifier(shape=(*SIZE, 7))),
        {},
        r"shape \(None, 24, 20, 7\); supported: .* 1, 3 or 4 colours",
    ),
    "four labels": (plain, {"LABELS": "a,b,c,d"}, "4 names, and the model gives 3 scores"),
    "another output": (plain, {"OUTPUT": "plant"}, "no output 'plant', only: dense"),
    "no classifier": (
        lambda: saved_function(lambda pixels: {"map": pixels}, None, *SIZE, 3),
        {},
        r"no classifier.*'map': \(None, 24, 20, 3\).*Detection",
    ),
    "a softmax of one": (
        lambda: of(classifier(units=1)),
        {"LABELS": "a,b"},
        "always 1: train a sigmoid",
    ),
    "one logit, one label": (
        lambda: of(classifier(units=1, activation=None)),
        {"LABELS": "a"},
        "LABELS=other,a",
    ),
    "scores between 0 and 1": (squeezed, {}, "set SCORES=independent if .*, or SCORES=logits"),
    "softmaxes side by side": (
        side_by_side,
        {"LABELS": "a,b,c,d,e,f"},
        "set SCORES=independent if",
    ),
    "logits called independent": (
        lambda: of(classifier(activation=None)),
        {"SCORES": "independent"},
        r"gives logits\. Put Activation",
    ),
    "operations in .h5": (
        lambda: of(classifier(first=[lambda x: x[..., ::-1] / 255]), file="model.h5"),
        {},
        r"model.h5 has the operation GetItem, .* Save .* model.save\('model.keras'\)",
    ),
    "outputs in outputs": (nested, {}, "lists or dicts inside another one. Build a model"),
    "NaN": (
        lambda: followed_by(lambda scores: keras.ops.log(-scores)),
        {},
        "the model itself gives NaN .*check PREPROCESSING",
    ),
    "its own signature": (
        lambda: saved_function(lambda pixels: {"scores": pixels}, None, *SIZE, 3),
        {"SIGNATURE": "serving_uint8"},
        "this conversion adds: choose another",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_served_is_refused_in_one_line(name, tmp_path):
    make, settings, words = REFUSED[name]
    case = make()
    case.save(tmp_path / case.file)
    settings = {"PREPROCESSING": "unit", "LABELS": THREE} | settings
    with pytest.raises(TutorialError, match=words) as caught:
        run_lesson(MODEL=str(tmp_path / case.file), MODELS_DIR=str(tmp_path), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("reader", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_each_keras_reads_its_own_files_and_the_layers_of_convnext(tmp_path, reader, ending):
    own = read_model.family_layers(reader)
    model = classifier(reader, first=[own["LayerScale"](0.1, 3), own["StochasticDepth"](0.1)])
    model.save(tmp_path / f"model{ending}")
    loaded = read_model.load_model(tmp_path / f"model{ending}")
    assert isinstance(loaded, reader.Model)
    images = np.ones((1, *SIZE, 3), np.float32)
    np.testing.assert_allclose(loaded(images), model(images), rtol=1e-5)
