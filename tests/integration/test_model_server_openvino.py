"""OpenVINO in TensorFlow's place: the same requests, answers and refusals."""

import os
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import grpc
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("openvino", reason="there is no OpenVINO for this system")

from model_server.config import BatchingParameters
from model_server.engines import openvino
from model_server.engines.openvino import OpenVinoEngine
from model_server.engines.tensorflow import TensorFlowEngine
from model_server.flags import parse
from model_server.servable import Servable
from model_server.server import engine
from model_server.tuning import available_cpus
from tests import saved_models
from tests.serving import predict_request, refused, serving

X = np.random.default_rng(1).uniform(-1, 1, (5, 3)).astype(np.float32)
CPUS = available_cpus()
PIXELS = np.random.default_rng(1).integers(0, 256, (5, 3), np.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_models.save_scale(tmp_path_factory.mktemp("saved") / "scale" / "1")


def load(path, batching=None):
    return Servable(OpenVinoEngine(path), batching)


@pytest.fixture(scope="module", params=[None, BatchingParameters(max_batch_size=8)])
def client(saved, request):
    with serving(saved.parents[1], "scale", load=lambda path: load(path, request.param)) as served:
        yield served.client


def ask(client, x, **more):
    answer = client.predict(predict_request({"x": x}, **more))
    return {alias: tf.make_ndarray(proto) for alias, proto in answer.outputs.items()}


@pytest.mark.parametrize(
    ("signature", "x", "outputs"),
    [("serving_default", X, []), ("serving_default", X, ["total"]), ("pixels", PIXELS, [])],
)
def test_same_outputs_as_tensorflow(client, saved, signature, x, outputs):
    answers = ask(client, x, signature=signature, outputs=outputs)
    wanted = tf.saved_model.load(saved).signatures[signature](x=tf.constant(x))
    assert set(answers) == set(outputs or wanted)
    for alias, answer in answers.items():
        np.testing.assert_allclose(answer, wanted[alias], rtol=1e-5, atol=1e-6)


def test_many_requests_of_many_sizes_at_the_same_time(client):
    def total(rows):
        return ask(client, np.full((rows, 3), rows, np.float32))["total"].tolist()

    sizes = [1, 2, 3, 4] * 8
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(total, sizes)) == [[3.0 * rows] * rows for rows in sizes]


def test_signature_that_it_cannot_run_is_refused(client):
    with refused(grpc.StatusCode.UNIMPLEMENTED, "--runtime=tensorflow"):
        client.predict(predict_request({"text": [b"a"]}, signature="words"))


@pytest.mark.parametrize(
    "x, named", [(X.astype(np.float64), "float64"), (X[:, :1], "[5, 1]"), (X[0], "[3]")]
)
def test_wrong_input_is_refused_and_the_next_request_answered(client, x, named):
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "serving_default_x:0", named):
        ask(client, x)
    ask(client, X)


def run(engine, x, output, timeout):
    """Run the default signature without a server."""
    signature = engine.signatures.signature_def["serving_default"]
    [array] = engine.run({signature.inputs["x"].name: x}, [signature.outputs[output].name], timeout)
    return array


def test_run_ends_with_its_time(saved):
    loaded = OpenVinoEngine(saved)
    with pytest.raises(tf.errors.DeadlineExceededError):
        run(loaded, np.zeros((1_000_000, 3), np.float32), "total", 0)
    assert run(loaded, X, "scaled", 1e12).shape == (5, 3)
    loaded.close()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system binds no threads")
def test_no_thread_is_bound_to_one_processor(saved):
    loaded = OpenVinoEngine(saved)
    run(loaded, X, "total", 10)
    threads = os.listdir("/proc/self/task")
    bound = [os.sched_getaffinity(int(thread)) for thread in threads]
    assert all(processors == os.sched_getaffinity(0) for processors in bound)
    loaded.close()


@pytest.mark.parametrize(
    "limit, flag, at_once, used", [(CPUS, 0, 1, CPUS), (CPUS, 1, CPUS, CPUS), (1, 0, 1, 1)]
)
def test_all_processors_of_the_limit_work_on_one_run_or_on_several(
    saved, monkeypatch, limit, flag, at_once, used
):
    monkeypatch.setattr(openvino, "available_cpus", lambda: limit)
    loaded = OpenVinoEngine(saved, threads=flag)
    found = loaded._models[0]._compiled.get_property
    assert (found("NUM_STREAMS"), found("INFERENCE_NUM_THREADS")) == (at_once, used)
    loaded.close()


def test_threads_are_measured_unless_a_flag_says_them(saved, caplog):
    saved_models.write_warmup(saved, predict_request())
    caplog.set_level("INFO")
    flags = [f"--model_base_path={saved.parent}", "--runtime=openvino"]
    for more, measured in (["--tensorflow_intra_op_parallelism=1"], False), ([], True):
        caplog.clear()
        engine(parse(flags + more))(saved).close()
        assert ("for an operation" in caplog.text) == (CPUS > 1 and measured)


@pytest.mark.parametrize("content", [None, b"no model"])
def test_version_without_a_model_is_not_served(tmp_path, content):
    (tmp_path / "scale" / "1").mkdir(parents=True)
    if content:
        (tmp_path / "scale" / "1" / "saved_model.pb").write_bytes(content)
    with serving(tmp_path, "scale", load=load) as served:
        [found] = served.client.statuses()
    assert "SavedModel" in found.status.error_message


@pytest.mark.parametrize(
    "runtime, kind", [("openvino", OpenVinoEngine), ("tensorflow", TensorFlowEngine)]
)
def test_bfloat16_is_near(saved, runtime, kind):
    flags = [f"--model_base_path={saved.parent}", "--mixed_precision=bfloat16"]
    flags += [f"--runtime={runtime}", "--tensorflow_intra_op_parallelism=0"]
    with mock.patch.object(kind, "__init__", autospec=True, side_effect=kind.__init__) as init:
        loaded = engine(parse(flags))(saved)
    assert init.call_args.kwargs["bfloat16"]  # answers alone would not show that it got there
    assert isinstance(loaded, kind)
    np.testing.assert_allclose(run(loaded, X, "total", 10), X.sum(axis=1), atol=0.02)
