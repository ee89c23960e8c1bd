"""gateway/model_client against a fake model: names from the model, meaning from the contract."""

import gc
import time
import weakref
from dataclasses import replace

import grpc
import numpy as np
import pytest

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.errors import ModelMismatchError
from gateway.model_client import ModelClient, Prediction, check_answer, describe, predict
from tests.fake_model import FakeModel, serve, signature

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)


@pytest.fixture
def contract(contract_file):
    return Contract.read(contract_file)


@pytest.fixture
def client(fake_model, contract):
    """A client of the fake model."""
    return ModelClient(LazyChannel(fake_model[1]), contract)


def test_describe_reads_names_and_size_from_the_model(client):
    assert not client.was_ready
    float_signature = describe(client, timeout=5)[-1]
    assert float_signature.input_name == "photo"
    assert float_signature.input_size == (4, 6)
    assert float_signature.output_name == "kinds"
    assert client.signatures[-1] == float_signature
    assert client.was_ready


def test_predict_returns_scores_in_order_and_the_version(client, fake_model):
    scores, version = predict(client, PICTURES, timeout=5)
    assert version == 1
    np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    [request] = fake_model[0].requests
    assert request.model_spec.name == "fake"
    assert list(request.output_filter) == ["kinds"]


def test_predict_sends_pixels_as_they_are_to_a_model_that_takes_them(client, fake_model):
    client.contract = replace(client.contract, preprocessing="unit")
    predict(client, PICTURES, timeout=5)
    [request] = fake_model[0].requests
    assert request.model_spec.signature_name == "serving_uint8"
    assert request.inputs["photo"].tensor_content == PICTURES.tobytes()


def test_predict_scales_pixels_for_a_model_that_takes_float(client, fake_model):
    client.contract = replace(client.contract, preprocessing="unit")
    fake_model[0].takes_bytes = False
    predict(client, PICTURES, timeout=5)
    [request] = fake_model[0].requests
    assert request.model_spec.signature_name == "serving_default"
    scaled = PICTURES.astype(np.float32) / 255
    assert request.inputs["photo"].tensor_content == scaled.tobytes()


@pytest.mark.parametrize("name", ["serving_default", "serving_uint8"])
def test_predict_calls_only_the_signature_that_is_named(client, fake_model, name):
    model, client.signature_name = fake_model[0], name
    predict(client, PICTURES, timeout=5)
    assert model.requests[0].model_spec.signature_name == name
    model.takes_bytes = False
    if name == "serving_uint8":
        with pytest.raises(grpc.RpcError) as error:
            predict(client, PICTURES, timeout=5)
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(ModelMismatchError, match="no signature 'serving_uint8'"):
            predict(client, PICTURES, timeout=5)


def test_predict_loses_no_request_to_a_version_without_the_uint8_signature(client, fake_model):
    describe(client, timeout=5)
    fake_model[0].takes_bytes = False  # of two versions that are both served, the other answers
    for _ in range(2):
        scores = predict(client, PICTURES, timeout=5).scores
        np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    names = [request.model_spec.signature_name for request in fake_model[0].requests]
    assert names == ["serving_default"] * 2


def test_predict_describes_the_model_again_after_it_refused(client, fake_model):
    model = fake_model[0]
    model.definition = signature(inputs={"old": (-1, 4, 6, 3)})
    describe(client, timeout=5)
    model.definition = signature()
    with pytest.raises(grpc.RpcError) as error:
        predict(client, PICTURES, timeout=5)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    predict(client, PICTURES, timeout=5)


def test_refused_prediction_keeps_no_pixels(client, fake_model):
    model = fake_model[0]
    model.definition = signature(inputs={"old": (-1, 4, 6, 3)})
    describe(client, timeout=5)
    model.definition = signature()
    pixels = PICTURES.copy()
    kept = weakref.ref(pixels)
    gc.disable()
    try:
        with pytest.raises(grpc.RpcError):
            predict(client, pixels, timeout=5)
        del pixels
        assert kept() is None, "only the garbage collector would free them"
    finally:
        gc.enable()


def test_predict_waits_for_an_absent_model_until_the_timeout(contract):
    client, begun = ModelClient(LazyChannel("127.0.0.1:1"), contract), time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        predict(client, PICTURES, timeout=0.3)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - begun < 1


def test_predict_shares_its_timeout_between_its_calls(contract):
    model = FakeModel(delay=0.4)
    model.metadata_delay = 0.4
    with serve(model) as address, pytest.raises(grpc.RpcError) as error:
        predict(ModelClient(LazyChannel(address), contract), PICTURES, timeout=0.6)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED]
)
def test_describe_does_not_repeat_other_errors(client, fake_model, code):
    fake_model[0].failure = code
    with pytest.raises(grpc.RpcError) as error:
        describe(client, timeout=5)
    assert error.value.code() == code


@pytest.mark.parametrize(
    "scores", [[[1.0, 2.0]], [[1.0, 2.0, 3.0]] * 2, [[1.0, np.nan, 3.0]], [[1.0, np.inf, 3.0]]]
)
def test_check_answer_refuses_what_is_not_one_score_a_label(scores):
    with pytest.raises(ModelMismatchError, match="not 1 x 3 numbers"):
        check_answer(Prediction(np.array(scores, np.float32), 1), 1, 3)


@pytest.mark.parametrize(
    ("version", "number", "label"), [("", 0, ""), ("3", 3, ""), ("canary", 0, "canary")]
)
def test_a_version_is_a_number_or_a_label(client, fake_model, version, number, label):
    client.version = version
    predict(client, PICTURES, timeout=5)
    spec = fake_model[0].requests[0].model_spec
    assert (spec.version.value, spec.version_label) == (number, label)


def test_metadata_is_sent_with_every_call(client, fake_model):
    numbers = map(str, range(9))
    client.metadata = lambda: (("x-number", next(numbers)),)
    describe(client, timeout=5)
    assert fake_model[0].metadata["x-number"] == "0"
    predict(client, PICTURES, timeout=5)
    assert fake_model[0].metadata["x-number"] == "1"
