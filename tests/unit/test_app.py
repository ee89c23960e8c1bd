"""gateway/app: from a request's pictures to the answer, within its time."""

import time

import numpy as np
import pytest
from PIL import Image

from gateway import images
from gateway.app import rank
from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.decode_slots import SLOTS
from tests.app_client import files, problem_in
from tests.fake_model import FakeModel, serve, signature
from tests.pictures import encoded, png


def test_predict_returns_scores_in_the_models_order(gateway):
    answer = gateway.post("/predict", **files(png("lime")))
    assert answer.status_code == 200
    assert list(answer.json.items()) == [("red", 0.0), ("green", 255.0), ("blue", 0.0)]


def test_predict_asks_the_model_once_for_several_pictures(gateway, fake_model):
    answer = gateway.post("/predict", **files(png("lime"), png("blue"), png("red")))
    assert [max(scores, key=scores.get) for scores in answer.json] == ["green", "blue", "red"]
    [request] = fake_model[0].requests
    assert request.inputs["photo"].tensor_shape.dim[0].size == 3


@pytest.mark.parametrize(
    ("setting", "version", "label"), [("", 0, ""), ("7", 7, ""), ("canary", 0, "canary")]
)
def test_classify_asks_for_the_version_in_the_settings(
    make_app, fake_model, setting, version, label
):
    gateway = make_app(MODEL_VERSION=setting).test_client()
    answer = gateway.post("/classify", **files(png("red"))).json
    assert answer["model"]["version"] == (version or 1)
    spec = fake_model[0].requests[0].model_spec
    assert (spec.version.value, spec.version_label) == (version, label)


def test_classify_ranks_labels_and_names_the_model_and_the_seconds(gateway):
    answer = gateway.post("/classify", **files(png("lime"))).json
    assert answer["predictions"] == [
        {"label": "green", "score": 255.0, "probability": pytest.approx(1)},
        {"label": "red", "score": 0.0, "probability": pytest.approx(0)},
        {"label": "blue", "score": 0.0, "probability": pytest.approx(0)},
    ]
    assert answer["model"] == {"name": "fake", "version": 1}
    assert answer["seconds"].keys() == {"decode", "model"}  # nothing was fetched
    assert all(0 < seconds < 5 for seconds in answer["seconds"].values())
    several = gateway.post("/classify", **files(png("red"), png("blue"))).json
    best = [result["predictions"][0]["label"] for result in several["results"]]
    assert best == ["red", "blue"]


@pytest.mark.parametrize(
    ("kind", "scores", "ranked"),
    [
        ("probabilities", [0.25, 0.75], [("b", 0.75), ("a", 0.25)]),
        ("logits", [1e4, 1e4, -1e4], [("a", 0.5), ("b", 0.5), ("c", 0.0)]),
    ],
)
def test_rank_keeps_probabilities_and_takes_large_logits(kind, scores, ranked):
    contract = Contract("fake", "serving_default", "none", tuple("abc"[: len(scores)]), kind)
    rows = rank(np.array(scores, np.float32), contract)
    assert [(row["label"], row["probability"]) for row in rows] == ranked


def test_predict_has_one_picture_open_at_a_time(gateway, monkeypatch):
    opened, open_picture = [], images.open_picture

    def open_next(data):
        assert not any(map(vars, opened))  # those before are freed
        opened.append(open_picture(data))
        return opened[-1]

    monkeypatch.setattr(images, "open_picture", open_next)
    assert gateway.post("/predict", **files(*[png("red")] * 5)).status_code == 200
    assert len(opened) == 5


def test_predict_looks_at_the_time_before_each_picture(gateway, monkeypatch):
    decoded = []

    def decode(image):
        time.sleep(0.2)
        decoded.append(image)
        return image

    monkeypatch.setattr(images, "decode", decode)
    header = {"Request-Timeout": "0.5"}
    answer = gateway.post("/predict", headers=header, **files(*[png("red")] * 32))
    problem_in(answer, "out-of-time")
    assert len(decoded) <= 3


def test_predict_names_the_bad_picture_among_several(gateway, fake_model):
    half = encoded(Image.new("RGB", (99, 99)), "JPEG")[:-20]  # which shows only when it is decoded
    for pictures, index in (([png("red"), b"none", half], 1), ([png("red"), png("red"), half], 2)):
        answer = gateway.post("/predict", **files(*pictures))
        problem_in(answer, "bad-picture")
        assert answer.json["index"] == index
    assert "index" not in gateway.post("/predict", **files(half)).json
    assert not fake_model[0].requests


def test_predict_answers_502_for_a_model_that_does_not_fit_the_labels(gateway, fake_model):
    fake_model[0].definition = signature(outputs={"kinds": (-1, 4)})
    problem_in(gateway.post("/predict", **files(png("red"))), "model-failed")


def post_within(app, seconds: float | str) -> tuple:
    """Return an answer, and the seconds that it took; the request allows `seconds`."""
    begun = time.monotonic()
    header = {"Request-Timeout": str(seconds)}
    answer = app.test_client().post("/predict", headers=header, **files(png("red")))
    return answer, time.monotonic() - begun


@pytest.mark.parametrize(("allowed", "settings"), [(0.4, {}), ("inf", {"REQUEST_TIMEOUT": 0.4})])
def test_predict_waits_for_the_model_as_long_as_caller_and_gateway_allow(
    make_app, allowed, settings
):
    answer, seconds = post_within(make_app(MODEL_ADDRESS="127.0.0.1:1", **settings), allowed)
    problem_in(answer, "model-unavailable")
    assert 0.3 < seconds < 1


def test_predict_asks_no_model_when_the_time_is_up(gateway, fake_model):
    problem_in(post_within(gateway.application, 1e-9)[0], "out-of-time")
    assert not fake_model[0].requests


def test_predict_gives_the_models_time_out_once(make_app):
    """The first request asks for metadata too: both calls share MODEL_TIMEOUT."""
    model = FakeModel(delay=0.8)
    model.metadata_delay = 0.8
    with serve(model) as address:
        app = make_app(MODEL_ADDRESS=address, MODEL_TIMEOUT=1.0)
        answer, seconds = post_within(app, 8)
        problem_in(answer, "out-of-time")
        assert seconds < 1.3
        assert post_within(app, 8)[0].status_code == 200  # now its metadata is known


def test_predict_waits_for_a_decode_slot_until_the_deadline_only(gateway):
    with SLOTS.take(2, Deadline.after(5)):
        answer, seconds = post_within(gateway.application, 0.3)
    problem_in(answer, "out-of-time")
    assert 0.2 < seconds < 1


def test_index_shows_the_model_and_runs_nothing_foreign(gateway):
    page = gateway.get("/")
    assert "fake" in page.text
    assert "logits" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert "Content-Security-Policy" not in gateway.post("/predict").headers
