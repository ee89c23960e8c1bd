"""The whole chain with models of one's own: a file, notebooks through papermill, an HTTP answer."""

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf
import tf_keras

from gateway.contract import Contract
from tests.pictures import encoded, noise
from tutorial import TutorialError, services
from tutorial.notebooks import execute
from tutorial.processes import free_port

# Keras 2.7 wrote it: the shape of file that the course publishes.
KERAS_2_7 = services.ROOT / "tests/data/keras27-nested-xception-tiny.h5"
NOTEBOOKS = services.ROOT / "notebooks"


def convert(folder: Path, **parameters: str) -> Path:
    """Convert a model with notebook 01; return its folder."""
    parameters["MODELS_DIR"] = str(folder / "models")
    execute(NOTEBOOKS / "01-convert-model.ipynb", parameters, folder / "executed.ipynb")
    [model_folder] = (folder / "models").iterdir()
    return model_folder


@pytest.fixture(scope="module")
def seasons(tmp_path_factory) -> Path:
    """The folder of a model converted from a SavedModel: the second of its signatures."""
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

    path = tmp_path_factory.mktemp("chain") / "seasons"
    signatures = {"serving_default": serving_default, "classify": classify}
    tf.saved_model.save(module, path, signatures=signatures)
    return convert(
        path.parent,
        MODEL=str(path),
        LABELS="spring,summer,autumn,winter",
        SIGNATURE="classify",
        PREPROCESSING="xception",
    )


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    """A picture file of noise."""
    path = tmp_path_factory.mktemp("pictures") / "noise.png"
    path.write_bytes(encoded(noise("RGB", (90, 120))))
    return path


def test_deployed_gateway_gives_the_scores_of_keras(tmp_path, picture, start_gateway):
    labels = [*"abcdefghij"]
    folder = convert(tmp_path, MODEL=str(KERAS_2_7), LABELS=",".join(labels), PREPROCESSING="tf")
    assert Contract.read(folder / "contract.json").scores == "logits"
    model = tf_keras.models.load_model(KERAS_2_7, compile=False)
    image = tf_keras.utils.load_img(picture, target_size=model.input_shape[1:3])
    [expected] = model.predict(np.array([image]) / np.float32(127.5) - 1, verbose=0)

    port = free_port()
    command = services.model_server_command(folder, port)
    with services.start_model_server("chain model", command, port):
        gateway = start_gateway(
            model_address=f"127.0.0.1:{port}", contract=folder / "contract.json"
        )
        answer = gateway.predict(picture.read_bytes()).json()
    assert list(answer) == labels
    np.testing.assert_allclose(list(answer.values()), expected, rtol=1e-5, atol=1e-5)


def run_lesson(lesson: str, folder: Path, parameters: dict[str, str]) -> str:
    """Run a lesson with a converted model; return the executed copy's text."""
    parameters |= {"MODEL_NAME": folder.name, "MODELS_DIR": str(folder.parent)}
    copy = folder.parents[1] / f"{lesson}.ipynb"
    return execute(NOTEBOOKS / f"{lesson}.ipynb", parameters, copy).read_text()


def test_lessons_show_the_names_of_another_model(seasons, picture):
    signature = {"SIGNATURE": "classify"}
    assert "season" in run_lesson("02-inspect-saved-model", seasons, signature)
    pictures = {"PICTURES": str(picture.parent), "PICTURE": picture.name}
    assert "winter" in run_lesson("05-gateway", seasons, pictures)


@pytest.mark.skipif(
    not services.serving_has_an_image(),
    reason="tensorflow/serving has no image for this processor, so the lesson never takes it",
)
def test_grpc_lesson_uses_docker_where_it_answers(seasons, picture, fake_docker):
    assert services.docker_runs_serving()
    text = run_lesson("03-tf-serving-connect", seasons, {"PICTURE": str(picture)})
    assert "It runs in Docker." in text
    assert "winter" in text


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"PREPROCESSING": "exception"}, "'exception' is no preprocessing"),
        ({"MODELL": "x"}, "has no parameter MODELL"),
    ],
)
def test_convert_lesson_refuses_a_wrong_parameter_and_leaves_nothing(tmp_path, parameters, message):
    with pytest.raises(TutorialError, match=message):
        convert(tmp_path, **parameters)
    assert not (tmp_path / "models").exists()
