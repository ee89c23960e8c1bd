"""The whole chain with models of one's own: a file, notebooks through papermill, an HTTP answer."""

import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf
import tf_keras

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.images import decode, open_picture, resize
from gateway.model_client import ModelClient, call_predict, describe, predict
from gateway.preprocessing import scale
from tutorial import TutorialError, services
from tutorial.notebooks import execute
from tutorial.processes import free_port

DATA = Path(__file__).parents[1] / "data"
TINY = DATA / "keras27-nested-xception-tiny.h5"
NOTEBOOKS = services.ROOT / "notebooks"
TEN_LABELS = "a,b,c,d,e,f,g,h,i,j"


@dataclass
class Case:
    """A model of somebody's own, and the function that its Keras original computes."""

    parameters: dict[str, str]
    original: object  # float32 pictures (N, height, width, 3) -> scores (N, labels)
    scores: str
    names: tuple[str, str]


def keras3_file(folder: Path) -> Case:
    """A .keras file: 96x96, three classes, softmax, names of its own."""
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
    parameters = {
        "MODEL": str(path),
        "LABELS": "spring,summer,autumn,winter",
        "SIGNATURE": "classify",
        "PREPROCESSING": "xception",
    }
    return Case(
        parameters,
        lambda x: classify(tf.constant(x))["season"],
        "logits",
        ("pixels", "season"),
    )


@pytest.fixture(scope="module")
def convert(tmp_path_factory):
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
    """A case: (the case, its model folder, a folder for executed copies)."""
    return convert(request.param)


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A picture file of noise."""
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    noise = np.random.default_rng(3).integers(0, 256, (120, 90, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def test_keras_savedmodel_grpc_and_http_give_the_same_scores(chain, picture):
    case, folder, _ = chain
    contract = Contract.read(folder / "contract.json")
    assert contract.scores == case.scores
    model_port, gateway_port = free_port(), free_port()
    command = services.model_server_command(folder, model_port)
    with (
        services.start_model_server("chain model", command, model_port),
        services.start_gateway(
            gateway_port, model_port=model_port, contract=folder / "contract.json"
        ),
    ):
        channel = LazyChannel(f"127.0.0.1:{model_port}")
        client = ModelClient(channel, contract)
        signature = describe(client, timeout=20)[-1]
        assert (signature.input_name, signature.output_name) == case.names

        image = decode(open_picture(picture.read_bytes()))
        pixels = resize(image, signature.input_size)
        array = scale(pixels, contract.preprocessing)
        from_keras = np.asarray(case.original(array))
        saved = tf.saved_model.load(folder / "1").signatures[contract.signature_name]
        from_saved = saved(**{signature.input_name: tf.constant(array)})[signature.output_name]
        from_grpc = call_predict(client, signature, array, timeout=20).scores
        unscaled = ModelClient(channel, contract, signature_name="serving_uint8")
        from_bytes = predict(unscaled, pixels, timeout=20).scores
        np.testing.assert_allclose(from_bytes, from_keras, rtol=1e-5, atol=1e-5)
        with picture.open("rb") as file:
            answer = requests.post(
                f"http://127.0.0.1:{gateway_port}/predict", files={"file": file}, timeout=20
            ).json()

    np.testing.assert_allclose(from_saved, from_keras, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(from_grpc, from_keras, rtol=1e-5, atol=1e-5)
    assert list(answer) == list(contract.labels)
    np.testing.assert_allclose([list(answer.values())], from_keras, rtol=1e-5, atol=1e-5)


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


def test_a_preprocessing_that_does_not_exist_is_refused_and_leaves_nothing(tmp_path):
    models = tmp_path / "models"
    with pytest.raises(TutorialError, match="'exception' is no preprocessing"):
        execute(
            NOTEBOOKS / "01-convert-model.ipynb",
            {"PREPROCESSING": "exception", "MODELS_DIR": str(models)},
            tmp_path / "executed.ipynb",
        )
    assert not models.exists()


def test_a_misspelt_parameter_is_refused(tmp_path):
    with pytest.raises(TutorialError, match="has no parameter MODELL"):
        execute(NOTEBOOKS / "01-convert-model.ipynb", {"MODELL": "x"}, tmp_path / "x.ipynb")


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="tensorflow/serving has no image for this processor, so the lesson never takes it",
)
@pytest.mark.parametrize("chain", [keras2_file], indirect=True)
def test_the_grpc_lesson_takes_docker_where_it_answers(chain, picture, tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fake_docker "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(services.ROOT))
    assert services.docker_runs_serving()
    assert "It runs in Docker." in run_lesson("03-tf-serving-connect", chain, picture)
