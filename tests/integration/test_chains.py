"""The whole chain with models of one's own: a file, notebooks through papermill, an HTTP answer."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
import tf_keras

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.images import decode, open_picture, resize
from gateway.model_client import ModelClient, call_predict, describe, predict
from gateway.preprocessing import scale
from tests.pictures import encoded, noise
from tutorial import TutorialError, services
from tutorial.notebooks import execute
from tutorial.processes import free_port

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "keras27-nested-xception-tiny.h5"
NOTEBOOKS = services.ROOT / "notebooks"
TEN_LABELS = "a,b,c,d,e,f,g,h,i,j"


class Case(NamedTuple):
    """A model of the reader's own, and the function that its Keras original computes."""

    parameters: dict[str, str]
    original: Callable  # float32 pictures (N, height, width, 3) -> scores (N, labels)
    scores: str
    names: tuple[str, str]


def keras3_file(folder: Path) -> Case:
    """A .keras file: 96x96, three classes, softmax, with other names."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.layers.Input((96, 96, 3), name="photo"),
            keras.layers.Conv2D(8, 3, strides=4),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, activation="softmax", name="animal"),
        ]
    )
    path = folder / "animals.keras"
    model.save(path)
    parameters = {"MODEL": str(path), "LABELS": "cat, dog, bird", "PREPROCESSING": "unit"}
    return Case(parameters, model, "probabilities", ("photo", "animal"))


def keras2_file(_: Path) -> Case:
    """The HDF5 file that Keras 2.7 wrote, the shape of file that the course publishes."""
    model = tf_keras.models.load_model(TINY, compile=False)
    parameters = {
        "MODEL": str(TINY),
        "LABELS": TEN_LABELS,
        "MODEL_NAME": "tiny",
        "PREPROCESSING": "tf",
    }
    return Case(parameters, model, "logits", ("input_8", "dense_7"))


def two_signatures(folder: Path) -> Case:
    """A SavedModel folder with two signatures, of which the second is wanted."""
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_normal((3, 4), (1, 2)))
    spec = tf.TensorSpec((None, 32, 48, 3), tf.float32, name="pixels")

    @tf.function(input_signature=[spec])
    def serving_default(pixels):
        return {"brightness": tf.reduce_mean(pixels, axis=(1, 2, 3))[:, None]}

    @tf.function(input_signature=[spec])
    def classify(pixels):
        mean = tf.reduce_mean(pixels, axis=(1, 2))
        return {"season": mean @ module.weights, "mean": mean}

    path = folder / "seasons"
    tf.saved_model.save(
        module, path, signatures={"serving_default": serving_default, "classify": classify}
    )
    labels = "spring,summer,autumn,winter"
    parameters = {"MODEL": str(path), "LABELS": labels}
    parameters |= {"SIGNATURE": "classify", "PREPROCESSING": "xception"}
    original = lambda x: classify(tf.constant(x))["season"]  # noqa: E731
    return Case(parameters, original, "logits", ("pixels", "season"))


@pytest.fixture(scope="module")
def convert(tmp_path_factory) -> Callable:
    """A function that makes a case and converts it with notebook 01, once for all tests."""

    @cache
    def convert(make):
        folder = tmp_path_factory.mktemp(make.__name__)
        case = make(folder)
        parameters = case.parameters | {"MODELS_DIR": str(folder / "models")}
        execute(NOTEBOOKS / "01-convert-model.ipynb", parameters, folder / "01.ipynb")
        [model_folder] = (folder / "models").iterdir()
        return case, model_folder, folder

    return convert


@pytest.fixture(params=[keras3_file, keras2_file, two_signatures])
def chain(request, convert):
    """A case, converted: (the case, its model folder, a folder for executed copies)."""
    return convert(request.param)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A picture file of noise."""
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    path.write_bytes(encoded(noise("RGB", (90, 120))))
    return path


def test_keras_savedmodel_grpc_and_http_give_the_same_scores(chain, picture, start_gateway):
    case, folder, _ = chain
    contract = Contract.read(folder / "contract.json")
    assert contract.scores == case.scores
    image = decode(open_picture(picture.read_bytes()))
    port = free_port()
    command = services.model_server_command(folder, port)
    with services.start_model_server("chain model", command, port):
        channel = LazyChannel(f"127.0.0.1:{port}")
        client = ModelClient(channel, contract)
        signature = describe(client, timeout=20)[-1]
        assert (signature.input_name, signature.output_name) == case.names
        pixels = resize(image, signature.input_size)
        array = scale(pixels, contract.preprocessing)
        saved = tf.saved_model.load(folder / "1").signatures[contract.signature_name]
        from_saved = saved(**{signature.input_name: tf.constant(array)})[signature.output_name]
        scores = [from_saved, call_predict(client, signature, array, timeout=20).scores]

        unscaled = ModelClient(channel, contract, signature_name="serving_uint8")
        scores.append(predict(unscaled, pixels, timeout=20).scores)

        gateway = start_gateway(
            model_address=f"127.0.0.1:{port}", contract=folder / "contract.json"
        )
        answer = gateway.predict(picture.read_bytes()).json()
        assert list(answer) == list(contract.labels)
        scores.append([list(answer.values())])
    from_keras = np.asarray(case.original(array))
    for each in scores:
        np.testing.assert_allclose(each, from_keras, rtol=1e-5, atol=1e-5)


def run_lesson(lesson: str, chain, picture: Path) -> str:
    """Run a lesson with the case's model; return the executed copy's text."""
    case, folder, place = chain
    signature = case.parameters.get("SIGNATURE", "serving_default")
    parameters = {"MODEL_NAME": folder.name, "MODELS_DIR": str(folder.parent)}
    parameters |= {
        "02-inspect-saved-model": {"SIGNATURE": signature},
        "03-tf-serving-connect": {"PICTURE": str(picture)},
        "05-gateway": {"PICTURES": str(picture.parent), "PICTURE": picture.name},
    }[lesson]
    executed = execute(NOTEBOOKS / f"{lesson}.ipynb", parameters, place / f"{lesson}.ipynb")
    return executed.read_text()


@pytest.mark.parametrize(
    ("chain", "lesson", "shown"),
    [
        (two_signatures, "02-inspect-saved-model", "season"),
        (keras3_file, "03-tf-serving-connect", "bird"),
        (two_signatures, "05-gateway", "winter"),
    ],
    indirect=["chain"],
)
def test_lessons_show_the_names_of_another_model(chain, picture, lesson, shown):
    assert shown in run_lesson(lesson, chain, picture)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"PREPROCESSING": "exception"}, "'exception' is no preprocessing"),
        ({"MODELL": "x"}, "has no parameter MODELL"),
    ],
)
def test_convert_lesson_refuses_a_wrong_parameter_and_leaves_nothing(tmp_path, parameters, message):
    parameters |= {"MODELS_DIR": str(tmp_path / "models")}
    with pytest.raises(TutorialError, match=message):
        execute(NOTEBOOKS / "01-convert-model.ipynb", parameters, tmp_path / "executed.ipynb")
    assert not (tmp_path / "models").exists()


@pytest.mark.skipif(
    not services.serving_has_an_image(),
    reason="tensorflow/serving has no image for this processor, so the lesson never takes it",
)
@pytest.mark.parametrize("chain", [keras2_file], indirect=True)
def test_grpc_lesson_uses_docker_where_it_answers(chain, picture, fake_docker):
    assert services.docker_runs_serving()
    assert "It runs in Docker." in run_lesson("03-tf-serving-connect", chain, picture)
