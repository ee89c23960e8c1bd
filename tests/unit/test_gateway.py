"""gateway/app: what a caller gets for good pictures, bad pictures and model trouble."""

import io
import socket
import time

import grpc
import pytest
from PIL import Image

from gateway import images
from gateway.app import create_app
from gateway.images import MAX_BYTES, Places
from tests.fake_model import FakeModel, serve, signature


@pytest.fixture
def gateway(fake_model, contract_file):
    """A test client of a gateway in front of the fake model."""
    return create_app(MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file).test_client()


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(file, "PNG")
    return file.getvalue()


def upload(data: bytes) -> dict:
    return {"data": {"file": (io.BytesIO(data), "picture.png")}}


def problem_in(answer, status: int) -> str:
    """Check the form of an error answer; return its detail."""
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    assert answer.json.keys() == {"type", "title", "status", "detail"}
    assert answer.json["status"] == status
    return answer.json["detail"]


def test_an_upload_is_scored(gateway):
    answer = gateway.post("/predict", **upload(png("lime")))
    assert answer.status_code == 200
    assert list(answer.json.items()) == [("red", 0.0), ("green", 255.0), ("blue", 0.0)]


def test_an_address_is_fetched_and_scored(fake_model, contract_file, picture_server):
    folder, address = picture_server
    (folder / "blue.png").write_bytes(png("blue"))
    gateway = create_app(
        MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file, ALLOWED_ORIGINS=f"{address}/"
    ).test_client()
    answer = gateway.post("/predict", json={"url": f"{address}/blue.png"})
    assert answer.json == {"red": 0.0, "green": 0.0, "blue": 255.0}


def test_every_blocked_address_gets_the_same_answer(gateway, picture_server):
    bodies = {
        problem_in(gateway.post("/predict", json={"url": url}), 400)
        for url in (
            f"{picture_server[1]}/blue.png",
            "http://169.254.169.254/latest/meta-data/",
            "http://localhost/",
            "http://127.0.0.1:1/",
            "file:///etc/passwd",
            "http://user:password@8.8.8.8/",
            "nonsense",
        )
    }
    [body] = bodies
    assert "public internet" in body


def test_too_much_at_once_is_ours_and_passes(gateway, monkeypatch):
    monkeypatch.setattr(images, "_places", Places(0))
    monkeypatch.setitem(images.decode_and_prepare.__kwdefaults__, "wait", 0.01)
    answer = gateway.post("/predict", **upload(png("red")))
    assert "try again" in problem_in(answer, 503)
    assert answer.headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    "body",
    [
        {"json": {}},
        {"json": []},
        {"json": {"url": 7}},
        {"json": {"url": None}},
        {"data": b"{"},
        {"data": b'{"url": "x"', "content_type": "application/json"},
        {"data": {"picture": "no file"}},
    ],
)
def test_a_body_without_a_picture_says_what_to_send(gateway, body):
    assert 'form field "file"' in problem_in(gateway.post("/predict", **body), 400)


def test_what_is_no_picture_is_the_senders_error(gateway):
    detail = problem_in(gateway.post("/predict", **upload(b"not a picture")), 400)
    assert "not a whole picture" in detail


def test_an_upload_over_the_limit_is_refused(gateway):
    detail = problem_in(gateway.post("/predict", **upload(bytes(MAX_BYTES + 2**17))), 413)
    assert "10 MB" in detail


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("GET", "/nowhere")])
def test_what_flask_refuses_has_the_same_form(gateway, method, path):
    problem_in(gateway.open(path, method=method), 405 if path == "/predict" else 404)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503),  # waited in the queue for too long
        (grpc.StatusCode.NOT_FOUND, 503),  # still loading
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.INVALID_ARGUMENT, 502),
        (grpc.StatusCode.FAILED_PRECONDITION, 502),
        (grpc.StatusCode.INTERNAL, 502),
    ],
)
def test_model_trouble_is_ours(gateway, fake_model, said, status):
    fake_model[0].failure = said
    answer = gateway.post("/predict", **upload(png("red")))
    assert "told to fail" not in problem_in(answer, status)  # what the model says goes to the log
    assert answer.headers.get("Retry-After") == ("1" if status == 503 else None)


def test_a_model_that_was_there_and_is_not_found_is_no_longer_on_its_way(gateway, fake_model):
    assert gateway.post("/predict", **upload(png("red"))).status_code == 200
    fake_model[0].failure = grpc.StatusCode.NOT_FOUND
    problem_in(gateway.post("/predict", **upload(png("red"))), 502)


@pytest.mark.parametrize("side", [1100, 2400], ids=["the server's limit", "the client's limit"])
def test_a_message_too_large_is_not_worth_another_attempt(contract_file, side):
    """gRPC's own words tell it from a full queue: here they are, from the real library."""
    with serve(FakeModel(side)) as address:
        gateway = create_app(MODEL_ADDRESS=address, CONTRACT=contract_file).test_client()
        answer = gateway.post("/predict", **upload(png("red")))
    problem_in(answer, 502)


def test_the_callers_time_is_the_models_time(contract_file):
    absent = create_app(MODEL_ADDRESS="127.0.0.1:1", CONTRACT=contract_file).test_client()
    begun = time.monotonic()
    answer = absent.post("/predict", headers={"Request-Timeout": "0.4"}, **upload(png("red")))
    problem_in(answer, 504)
    assert 0.3 < time.monotonic() - begun < 1


def test_a_slow_origin_uses_up_the_callers_time(fake_model, contract_file):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        gateway = create_app(
            MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file, ALLOWED_ORIGINS=url
        ).test_client()
        begun = time.monotonic()
        answer = gateway.post("/predict", headers={"Request-Timeout": "0.4"}, json={"url": url})
        assert "time" in problem_in(answer, 504)
        assert 0.3 < time.monotonic() - begun < 1


def test_the_time_is_up_before_the_model_is_asked(gateway, fake_model):
    answer = gateway.post("/predict", headers={"Request-Timeout": "1e-9"}, **upload(png("red")))
    assert "time" in problem_in(answer, 504)
    assert not fake_model[0].requests


def test_nobody_gets_more_time_than_the_gateway_gives(contract_file):
    absent = create_app(MODEL_ADDRESS="127.0.0.1:1", CONTRACT=contract_file, REQUEST_TIMEOUT=0.3)
    begun = time.monotonic()
    header = {"Request-Timeout": "inf"}
    problem_in(absent.test_client().post("/predict", headers=header, **upload(png("red"))), 504)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "5s"])
def test_a_timeout_that_is_none_says_what_it_should_be(gateway, header):
    answer = gateway.post("/predict", headers={"Request-Timeout": header}, **upload(png("red")))
    assert "as in 2.5" in problem_in(answer, 400)


def test_a_bad_picture_is_refused_before_the_model_is_asked(gateway, fake_model):
    assert gateway.post("/predict", **upload(png("red"))).status_code == 200  # its size is known
    fake_model[0].failure = grpc.StatusCode.UNAVAILABLE
    problem_in(gateway.post("/predict", **upload(b"")), 400)


def test_a_model_that_does_not_fit_the_labels_is_ours(gateway, fake_model):
    fake_model[0].definition = signature(outputs={"kinds": (-1, 4)})
    problem_in(gateway.post("/predict", **upload(png("red"))), 502)


def test_the_page_knows_the_model_and_runs_nothing_foreign(gateway):
    page = gateway.get("/")
    assert "fake" in page.text
    assert "logits" in page.text
    assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")


def test_nothing_inside_is_fetched_unless_it_is_said(contract_file):
    assert create_app(CONTRACT=contract_file).config["ALLOWED_ORIGINS"] == frozenset()
    with pytest.raises(ValueError, match="not an origin"):
        create_app(CONTRACT=contract_file, ALLOWED_ORIGINS="http://127.0.0.1:8081")
