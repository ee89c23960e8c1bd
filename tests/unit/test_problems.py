"""gateway/problems: every error has one kind, and clients get no details of the model's."""

import grpc
import pytest

from tests.app_client import files, problem_in
from tests.fake_model import FakeModel, serve
from tests.pictures import png


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (grpc.StatusCode.UNAVAILABLE, "model-unavailable"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "model-unavailable"),  # too long in the queue
        (grpc.StatusCode.NOT_FOUND, "model-unavailable"),  # still loading
        (grpc.StatusCode.DEADLINE_EXCEEDED, "out-of-time"),
        (grpc.StatusCode.INVALID_ARGUMENT, "model-failed"),
        (grpc.StatusCode.FAILED_PRECONDITION, "model-failed"),
        (grpc.StatusCode.INTERNAL, "model-failed"),
    ],
)
def test_failed_call_of_the_model_is_logged_and_not_shown(gateway, fake_model, caplog, said, name):
    fake_model[0].failure = said
    answer = gateway.post("/predict", **files(png()))
    assert "told to fail" not in problem_in(answer, name)
    assert caplog.messages == [f"model: {said.name}: told to fail"]


def test_model_that_was_ready_and_is_not_found_has_failed(gateway, fake_model):
    assert gateway.post("/predict", **files(png())).status_code == 200
    fake_model[0].failure = grpc.StatusCode.NOT_FOUND
    problem_in(gateway.post("/predict", **files(png())), "model-failed")


@pytest.mark.parametrize("side", [1300, 4800], ids=["the server's limit", "the client's limit"])
def test_message_too_large_for_grpc_has_failed(make_app, side):
    """Only gRPC's own words tell it from a full queue: here they are, from the real library."""
    with serve(FakeModel(side)) as address:
        gateway = make_app(MODEL_ADDRESS=address).test_client()
        problem_in(gateway.post("/predict", **files(png())), "model-failed")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/predict", 405), ("GET", "/nowhere", 404)]
)
def test_problem_is_the_form_of_what_flask_refuses(gateway, method, path, status):
    answer = gateway.open(path, method=method)
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.json.keys() == {"type", "title", "status", "detail"}
    assert (answer.headers.get("Allow") is not None) == (status == 405)
