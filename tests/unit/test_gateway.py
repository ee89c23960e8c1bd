"""gateway/app: what a caller gets for good pictures, bad pictures and model trouble."""

import io
import json
import socket
import time
import tracemalloc

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tensorflow.core.framework import types_pb2
from werkzeug.test import EnvironBuilder

from gateway import images
from gateway.app import create_app, rank
from gateway.contract import Contract
from gateway.images import MAX_BYTES, Places
from gateway.incoming import uploaded_files
from tests.fake_model import CONTRACT, FakeModel, serve, signature


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


def problem_in(answer, status: int, kind: str | None = None) -> str:
    """Check the form of an error answer; return its detail."""
    assert answer.status_code == status
    assert answer.mimetype == "application/problem+json"
    assert answer.json.keys() - {"index"} == {"type", "title", "status", "detail"}
    if kind:
        assert answer.json["type"] == f"/docs#{kind}"
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


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream"])
def test_a_picture_as_it_is_is_scored(gateway, kind):
    answer = gateway.post("/predict", data=png("blue"), content_type=kind)
    assert answer.json == {"red": 0.0, "green": 0.0, "blue": 255.0}


@pytest.mark.parametrize(
    ("name", "dtype", "green"),
    [("", types_pb2.DT_UINT8, 255), ("serving_default", types_pb2.DT_FLOAT, 1)],
)
def test_who_scales_is_a_setting(fake_model, contract_file, name, dtype, green):
    contract_file.write_text(json.dumps(CONTRACT | {"preprocessing": "xception"}))
    gateway = create_app(
        MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file, MODEL_SIGNATURE=name
    ).test_client()
    assert gateway.post("/predict", **upload(png("lime"))).json["green"] == green
    assert len(gateway.post("/classify", **several(png("red"), png("blue"))).json["results"]) == 2
    for request in fake_model[0].requests:
        assert request.inputs["photo"].dtype == dtype


def several(*files: bytes) -> dict:
    return {"data": {"file": [(io.BytesIO(data), "picture.png") for data in files]}}


def test_several_uploads_are_one_call_of_the_model(gateway, fake_model):
    answer = gateway.post("/predict", **several(png("lime"), png("blue"), png("red")))
    assert [max(scores, key=scores.get) for scores in answer.json] == ["green", "blue", "red"]
    [request] = fake_model[0].requests
    assert request.inputs["photo"].tensor_shape.dim[0].size == 3


def test_several_addresses_are_fetched_side_by_side_and_stay_in_order(
    fake_model, contract_file, picture_server
):
    folder, address = picture_server
    colours = ["red", "lime", "blue"] * 10 + ["red", "lime"]
    for colour in set(colours):
        (folder / f"{colour}.png").write_bytes(png(colour))
    gateway = create_app(
        MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file, ALLOWED_ORIGINS=f"{address}/"
    ).test_client()
    urls = [f"{address}/{colour}.png" for colour in colours]
    answer = gateway.post("/predict", json={"urls": urls})
    seen = [max(scores, key=scores.get) for scores in answer.json]
    assert seen == [colour.replace("lime", "green") for colour in colours]
    assert len(fake_model[0].requests) == 1
    assert len(gateway.post("/predict", json={"urls": urls[:1]}).json) == 1  # a list of one

    urls[5] = f"{address}/missing.png"
    answer = gateway.post("/predict", json={"urls": urls})
    assert "404" in problem_in(answer, 400, "bad-picture")
    assert answer.json["index"] == 5


def test_no_more_is_fetched_than_a_request_may_have(gateway, monkeypatch):
    fetched = []

    def fetch(url, **_):
        fetched.append(url)
        return bytes(MAX_BYTES // 2)

    monkeypatch.setattr("gateway.incoming.fetch", fetch)
    answer = gateway.post("/predict", json={"urls": ["https://example.com/"] * 32})
    assert "20 MB" in problem_in(answer, 413, "too-large")
    assert len(fetched) < 32


def test_a_bad_picture_among_several_is_named(gateway, fake_model):
    answer = gateway.post("/classify", **several(png("red"), b"not a picture", png("blue")))
    problem_in(answer, 400, "bad-picture")
    assert answer.json["index"] == 1
    file = io.BytesIO()
    Image.new("RGB", (99, 99)).save(file, "JPEG")
    half = file.getvalue()[:-20]  # which shows only when it is decoded
    answer = gateway.post("/classify", **several(png("red"), png("red"), half))
    assert answer.json["index"] == 2
    assert "index" not in gateway.post("/classify", **upload(half)).json
    assert not fake_model[0].requests


def test_classify_ranks_and_tells_who_answered_and_how_long_it_took(gateway):
    answer = gateway.post("/classify", **upload(png("lime"))).json
    assert answer["predictions"] == [
        {"label": "green", "score": 255.0, "probability": pytest.approx(1)},
        {"label": "red", "score": 0.0, "probability": pytest.approx(0)},
        {"label": "blue", "score": 0.0, "probability": pytest.approx(0)},
    ]
    assert answer["model"] == {"name": "fake", "version": 1}
    assert answer["seconds"].keys() == {"decode", "model"}  # nothing was fetched
    assert all(0 < seconds < 5 for seconds in answer["seconds"].values())


def test_probabilities_are_left_alone(fake_model, contract_file):
    contract_file.write_text(contract_file.read_text().replace("logits", "probabilities"))
    gateway = create_app(MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file).test_client()
    first = gateway.post("/classify", **upload(png("lime"))).json["predictions"][0]
    assert first == {"label": "green", "score": 255.0, "probability": 255.0}


def test_large_logits_make_probabilities_all_the_same():
    contract = Contract("fake", "serving_default", "none", ("a", "b", "c"), "logits")
    rows = rank(np.array([1e4, 1e4, -1e4], np.float32), contract)
    assert [row["probability"] for row in rows] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(("setting", "version", "label"), [("7", 7, ""), ("canary", 0, "canary")])
def test_a_version_of_the_model_is_asked_for_by_number_or_label(
    fake_model, contract_file, setting, version, label
):
    gateway = create_app(
        MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file, MODEL_VERSION=setting
    ).test_client()
    answer = gateway.post("/classify", **upload(png("red"))).json
    assert answer["model"]["version"] == (version or 1)
    spec = fake_model[0].requests[0].model_spec
    assert (spec.version.value, spec.version_label) == (version, label)


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
    monkeypatch.setitem(images.decode_and_resize.__kwdefaults__, "wait", 0.01)
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
        {"json": {"url": "https://example.com/", "urls": ["https://example.com/"]}},
        {"json": {"url": "https://example.com/", "size": 7}},
        {"json": {"urls": []}},
        {"json": {"urls": ["https://example.com/"] * 33}},
        {"json": {"urls": ["https://example.com/", 7]}},
        {"json": {"urls": "https://example.com/"}},
        {"data": b'{"url": "x"', "content_type": "application/json"},
        {"data": b"[" * 100_000, "content_type": "application/json"},
        {"data": {"picture": "no file"}, "content_type": "multipart/form-data"},
    ],
)
def test_a_body_without_a_picture_says_what_to_send(gateway, body):
    detail = problem_in(gateway.post("/predict", **body), 400, "bad-request")
    assert 'form field "file"' in detail


HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
END = b"\r\n--X--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"no form", id="without boundaries"),
        pytest.param(b"--X--\r\n", id="without parts"),
        pytest.param(HEAD + png("red"), id="cut off in a part"),
        pytest.param(HEAD[:30], id="cut off in a header"),
        pytest.param(HEAD.replace(b'; filename="a.png"', b"") + png("red") + END, id="a field"),
        pytest.param(HEAD.replace(b"form-data", b"attachment") + png("red") + END, id="no form"),
        pytest.param(b"--X\r\n\r\n" + png("red") + END, id="without headers"),
        pytest.param(HEAD.replace(b"a.png", b"\xff.png") + png("red") + END, id="no UTF-8"),
        pytest.param(HEAD[:-2] + b"A: b\r\n" * 99 + b"\r\n" + png("red") + END, id="99 headers"),
        pytest.param((HEAD + png("red") + b"\r\n") * 33 + END[2:], id="33 files"),
        pytest.param((HEAD + b"\r\n") * 5000 + END[2:], id="5000 files"),
    ],
)
def test_a_form_that_cannot_be_read_says_what_to_send(gateway, body):
    answer = gateway.post("/predict", data=body, content_type="multipart/form-data; boundary=X")
    assert 'form field "file"' in problem_in(answer, 400, "bad-request")


@pytest.mark.parametrize(
    ("boundary", "status"),
    [("; boundary=X", 200), ("", 400), ("; boundary=", 400), ('; boundary="\u00e4"', 400)],
)
def test_a_form_is_read_by_its_boundary(gateway, boundary, status):
    kind = f"multipart/form-data{boundary}"
    answer = gateway.post("/predict", data=HEAD + png("red") + END, content_type=kind)
    assert answer.status_code == status


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([HEAD, END, HEAD[:-2], b"--X", b"\r\n", b":"]) | st.binary()))
def test_no_form_is_the_gateways_fault(gateway, pieces):
    answer = gateway.post(
        "/predict", data=b"".join(pieces), content_type="multipart/form-data; boundary=X"
    )
    problem_in(answer, 400)


def test_a_large_file_in_a_form_arrives_whole(gateway):
    noise = np.random.default_rng(2).integers(0, 256, (600, 600, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    plain = gateway.post("/predict", data=file.getvalue(), content_type="image/png")
    assert gateway.post("/predict", **upload(file.getvalue())).json == plain.json
    assert plain.status_code == 200
    assert len(file.getvalue()) > 1_000_000


def test_a_form_is_kept_once(gateway):
    """Peak memory of a request: what it brings, and no second copy of that."""
    files = [(io.BytesIO(bytes(MAX_BYTES - 1)), "a.png"), (io.BytesIO(bytes(MAX_BYTES)), "b.png")]
    environ = EnvironBuilder("/predict", method="POST", data={"file": files}).get_environ()
    with gateway.application.request_context(environ):
        tracemalloc.start()
        try:
            found = uploaded_files()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [len(data) for data in found] == [MAX_BYTES - 1, MAX_BYTES]
    assert peak < 1.3 * 2 * MAX_BYTES


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_type_of_content_that_is_not_read_says_which_are(gateway, kind):
    answer = gateway.post("/classify", data=b'{"url": "https://x/"}', content_type=kind)
    assert "as JSON" in problem_in(answer, 415, "unknown-content-type")


def test_what_is_no_picture_is_the_senders_error(gateway):
    detail = problem_in(gateway.post("/predict", **upload(b"not a picture")), 400)
    assert "not a whole picture" in detail


def test_an_upload_over_the_limit_is_refused(gateway):
    detail = problem_in(gateway.post("/predict", **upload(bytes(MAX_BYTES + 1))), 413, "too-large")
    assert "10 MB" in detail


def test_a_request_over_the_limit_is_refused_unread(gateway):
    endless = {"data": {"file": [(io.BytesIO(bytes(MAX_BYTES)), "a.png") for _ in range(3)]}}
    problem_in(gateway.post("/predict", **endless), 413, "too-large")


@pytest.mark.parametrize(("method", "path"), [("GET", "/predict"), ("GET", "/nowhere")])
def test_what_flask_refuses_has_the_same_form(gateway, method, path):
    answer = gateway.open(path, method=method)
    problem_in(answer, 405 if path == "/predict" else 404)
    assert "POST" in answer.headers.get("Allow", "POST")
    assert ("Allow" in answer.headers) == (path == "/predict")


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


@pytest.mark.parametrize("side", [1300, 4800], ids=["the server's limit", "the client's limit"])
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
