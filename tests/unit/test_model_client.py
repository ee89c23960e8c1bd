"""gateway/model_client against a fake model: names from the model, meaning from the contract."""

import gc
import weakref
from dataclasses import replace

import grpc
import numpy as np
import pytest

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.errors import ModelMismatchError
from gateway.model_client import ModelClient, Prediction, check_answer, describe, predict
from tests.fake_model import signature

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)


@pytest.fixture
def model(fake_model):
    """The fake model."""
    return fake_model[0]


@pytest.fixture
def client(fake_model, contract_file):
    """A client of the fake model."""
    return ModelClient(LazyChannel(fake_model[1]), Contract.read(contract_file))


@pytest.fixture
def outdated(client, model):
    """A client that described the model when its input had another name."""
    model.definition = signature(inputs={"old": (-1, 4, 6, 3)})
    describe(client, timeout=5)
    model.definition = signature()
    return client


def test_predict_returns_scores_in_order_and_the_version(client, model):
    scores, version = predict(client, PICTURES, timeout=5)
    assert version == 1
    np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    [request] = model.requests
    assert request.model_spec.name == "fake"
    assert list(request.output_filter) == ["kinds"]


@pytest.mark.parametrize(
    ("takes_bytes", "name", "sent"),
    [(True, "serving_uint8", PICTURES), (False, "serving_default", np.float32(PICTURES) / 255)],
)
def test_predict_scales_pixels_only_for_a_model_that_takes_float(
    client, model, takes_bytes, name, sent
):
    client.contract = replace(client.contract, preprocessing="unit")
    model.takes_bytes = takes_bytes
    predict(client, PICTURES, timeout=5)
    [request] = model.requests
    assert request.model_spec.signature_name == name
    assert request.inputs["photo"].tensor_content == sent.tobytes()


def test_predict_loses_no_request_to_a_version_without_the_uint8_signature(client, model):
    describe(client, timeout=5)
    model.takes_bytes = False  # of two versions that are both served, the other answers
    for _ in range(2):
        scores = predict(client, PICTURES, timeout=5).scores
        np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    names = [request.model_spec.signature_name for request in model.requests]
    assert names == ["serving_default"] * 2


def test_predict_describes_the_model_again_after_it_refused(outdated):
    with pytest.raises(grpc.RpcError, match=r"StatusCode\.INVALID_ARGUMENT"):
        predict(outdated, PICTURES, timeout=5)
    predict(outdated, PICTURES, timeout=5)


def test_predict_keeps_no_pixels_when_it_is_refused(outdated):
    pixels = PICTURES.copy()
    kept = weakref.ref(pixels)
    gc.disable()
    try:
        with pytest.raises(grpc.RpcError):
            predict(outdated, pixels, timeout=5)
        del pixels
        assert kept() is None, "only the garbage collector would free them"
    finally:
        gc.enable()


def test_predict_shares_its_timeout_between_its_calls(client, model):
    model.delay = model.metadata_delay = 0.4
    with pytest.raises(grpc.RpcError, match=r"StatusCode\.DEADLINE_EXCEEDED"):
        predict(client, PICTURES, timeout=0.6)


@pytest.mark.parametrize(
    "scores", [[[1.0, 2.0]], [[1.0, 2.0, 3.0]] * 2, [[1.0, np.nan, 3.0]], [[1.0, np.inf, 3.0]]]
)
def test_check_answer_refuses_what_is_not_one_score_a_label(scores):
    with pytest.raises(ModelMismatchError, match="not 1 x 3 numbers"):
        check_answer(Prediction(np.array(scores, np.float32), 1), 1, 3)
