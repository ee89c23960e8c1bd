"""OpenVINO in TensorFlow's place: the same requests, answers and refusals."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("openvino", reason="there is no OpenVINO for this system")

from model_server.__main__ import engine
from model_server.config import BatchingParameters
from model_server.engines.openvino import OpenVinoEngine
from model_server.engines.tensorflow import TensorFlowEngine
from model_server.flags import parse
from model_server.servable import Servable
from tests import saved_models
from tests.serving import predict_request, refused, serving

X = np.random.default_rng(1).uniform(-1, 1, (3, 2, 2, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_models.save_pixels(tmp_path_factory.mktemp("saved") / "pixels" / "1")


def load(path, batching=None):
    return Servable(OpenVinoEngine(path), batching)


@pytest.fixture(scope="module", params=[None, BatchingParameters(max_batch_size=8)])
def client(saved, request):
    base, name = saved.parents[1], saved.parent.name
    with serving(base, name, load=lambda path: load(path, request.param)) as served:
        yield served.client


def ask(client, x, **more):
    answer = client.predict(predict_request({"x": x}, name="pixels", **more))
    return {alias: tf.make_ndarray(proto) for alias, proto in answer.outputs.items()}


def test_same_outputs_as_tensorflow(client, saved):
    loaded = tf.saved_model.load(saved).signatures
    for outputs in [(), ("total",), ("scores",)]:
        answers = ask(client, X, outputs=outputs)
        assert set(answers) == set(outputs or ("scores", "total"))
        for alias, wanted in loaded["serving_default"](x=tf.constant(X)).items():
            if alias in answers:
                np.testing.assert_allclose(answers[alias], wanted, rtol=1e-5, atol=1e-6)


def test_another_signature_of_the_same_model(client, saved):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 2, 2, 3), dtype=np.uint8)
    wanted = tf.saved_model.load(saved).signatures["of_bytes"](x=tf.constant(pixels))["scores"]
    answer = ask(client, pixels, signature="of_bytes")["scores"]
    np.testing.assert_allclose(answer, wanted, rtol=1e-5, atol=1e-6)


def test_many_requests_of_many_sizes_at_the_same_time(client):
    def total(rows):
        return ask(client, np.full((rows, 2, 2, 3), rows, np.float32))["total"].tolist()

    sizes = [1, 2, 3, 4] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(total, sizes)) == [[6.0 * rows] * rows for rows in sizes]


def test_signature_that_it_cannot_run_is_refused(client):
    with refused(grpc.StatusCode.UNIMPLEMENTED, "--runtime=tensorflow"):
        ask(client, np.array([b"a"], object), signature="of_text")


@pytest.mark.parametrize(
    "x, named",
    [(X.astype(np.float64), "float64"), (X[:, :1], "[3, 1, 2, 3]"), (X[0], "[2, 2, 3]")],
)
def test_wrong_input_is_refused_and_the_next_request_answered(client, x, named):
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "serving_default_x:0", named):
        ask(client, x)
    ask(client, X)


def test_run_ends_with_its_time(saved):
    loaded = OpenVinoEngine(saved)
    signature = loaded.signatures.signature_def["serving_default"]
    feeds = {signature.inputs["x"].name: np.zeros((200_000, 2, 2, 3), np.float32)}
    with pytest.raises(tf.errors.DeadlineExceededError):
        loaded.run(feeds, [signature.outputs["total"].name], 0)
    [scores] = loaded.run({signature.inputs["x"].name: X}, [signature.outputs["scores"].name], 1e12)
    assert scores.shape == (3, 3)
    loaded.close()


@pytest.mark.parametrize("content", [None, b"no model"])
def test_version_without_a_model_is_not_served(tmp_path, content):
    (tmp_path / "pixels" / "1").mkdir(parents=True)
    if content:
        (tmp_path / "pixels" / "1" / "saved_model.pb").write_bytes(content)
    with serving(tmp_path, "pixels", load=load) as served:
        [found] = served.client.statuses("pixels")
    assert "SavedModel" in found.status.error_message


@pytest.mark.parametrize(
    "flags, kind", [(["--runtime=openvino"], OpenVinoEngine), ([], TensorFlowEngine)]
)
def test_bfloat16_is_near(saved, flags, kind):
    flags = [f"--model_base_path={saved.parent}", "--mixed_precision=bfloat16", *flags]
    open_engine = engine(parse(flags))
    assert open_engine.keywords["bfloat16"]  # answers alone would not show that it got there
    loaded = open_engine(saved)
    assert isinstance(loaded, kind)
    signature = loaded.signatures.signature_def["serving_default"]
    [scores] = loaded.run({signature.inputs["x"].name: X}, [signature.outputs["scores"].name], 10)
    np.testing.assert_allclose(scores, 2 * X.mean(axis=(1, 2)), atol=0.02)
