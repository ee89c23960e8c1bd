"""TensorFlow Lite models answer as SavedModels do, by signatures of their own or tensor names."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf  # noqa: F401

from model_server.__main__ import engine
from model_server.config import BatchingParameters, VersionPolicy
from model_server.flags import parse
from model_server.runtime.tensorflow_engine import TensorFlowEngine
from model_server.runtime.tflite_engine import TfLiteEngine
from model_server.versions import LoadOptions, Model
from tests import saved_models
from tests.integration.test_model_server import (
    assert_refused,
    predict_request,
    serving,
)

PLAIN = {"serving_default_x": np.ones((2, 3), np.float32)}


@pytest.fixture(scope="module", params=[None, BatchingParameters(max_batch_size=8)])
def client(tmp_path_factory, request):
    """`scale` as its converter left it in version 1, with SignatureDefs of its own in version 2."""
    base = tmp_path_factory.mktemp("tflite") / "scale"
    saved_models.save_scale_for_lite(base / "1")
    saved_models.save_scale_for_lite(base / "2", signature="times_two")
    options = LoadOptions(open_engine=TfLiteEngine, batching=request.param)
    policy = VersionPolicy(all=VersionPolicy.All())
    with serving(Model("scale", base, policy=policy, options=options)) as (_, client):
        yield client


def test_model_without_signatures_is_asked_by_the_names_of_its_tensors(client):
    answer = client.predict(predict_request(PLAIN, version=1))
    assert answer.model_spec.signature_name == "serving_default"
    [output] = answer.outputs.values()
    assert list(output.float_val) == [2.0] * 6


def test_signatures_that_the_model_carries(client):
    request = predict_request({"x": PLAIN["serving_default_x"]}, signature="times_two", version=2)
    assert list(client.predict(request).outputs["y"].float_val) == [2.0] * 6


def test_batches_of_any_size_at_the_same_time(client):
    def ask(rows):
        inputs = {"serving_default_x": np.full((rows, 3), rows, np.float32)}
        [output] = client.predict(predict_request(inputs, version=1)).outputs.values()
        return output.float_val

    sizes = [1, 2, 3, 4] * 4
    with ThreadPoolExecutor(8) as pool:
        for rows, values in zip(sizes, pool.map(ask, sizes), strict=True):
            assert list(values) == [2.0 * rows] * 3 * rows


def test_wrong_dtype_is_refused_and_the_next_request_answered(client):
    inputs = {"serving_default_x": np.ones((1, 3), np.int32)}
    message = "Input serving_default_x:0 expects float32, got int32"
    call = predict_request(inputs, version=1)
    assert_refused(lambda: client.predict(call), grpc.StatusCode.INVALID_ARGUMENT, message)
    client.predict(predict_request(PLAIN, version=1))


def test_wrong_shape_is_refused_and_the_next_request_answered(client):
    inputs = {"serving_default_x": np.ones((1, 4), np.float32)}
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(predict_request(inputs, version=1))
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    client.predict(predict_request(PLAIN, version=1))


@pytest.mark.parametrize(
    "content, message",
    [(None, "model.tflite; No such file"), (b"no model", "Cannot build FlatBufferModel")],
)
def test_version_without_a_model_is_not_served(tmp_path, content, message):
    (tmp_path / "1").mkdir()
    if content:
        (tmp_path / "1" / "model.tflite").write_bytes(content)
    model = Model("scale", tmp_path, options=LoadOptions(open_engine=TfLiteEngine))
    model.poll()
    [status] = model.statuses()
    assert message in status.error.message


@pytest.mark.parametrize("flag", ["--prefer_tflite_model", "--use_tflite_model=true"])
def test_flag(tmp_path, flag):
    saved_models.save_scale_for_lite(tmp_path / "lite" / "1")
    saved_models.save_scale(tmp_path / "whole" / "1")
    open_engine = engine(parse([f"--model_base_path={tmp_path}", flag]))
    assert isinstance(open_engine(tmp_path / "lite" / "1"), TfLiteEngine)
    assert isinstance(open_engine(tmp_path / "whole" / "1"), TensorFlowEngine)
