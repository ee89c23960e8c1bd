"""gateway/incoming: which requests are read, and how the others are answered."""

import io
import os
import socket
import time
import tracemalloc
from concurrent import futures

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder

from gateway.errors import MAX_BYTES, MAX_HELD, MAX_JSON, BusyError
from gateway.held_bytes import HeldBytes
from gateway.incoming import MAX_FETCHES, has_left, uploaded_files
from tests.app_client import files, problem_in
from tests.pictures import png
from tutorial.hostile import dripping, tcp_server
from tutorial.processes import wait_until


@pytest.mark.parametrize("kind", ["image/png", "image/jpeg", "application/octet-stream"])
def test_predict_reads_a_picture_as_the_body(gateway, kind):
    answer = gateway.post("/predict", data=png("blue"), content_type=kind)
    assert answer.json == {"red": 0.0, "green": 0.0, "blue": 255.0}


def test_caller_has_left_when_it_closes_the_connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not has_left(ours)
        theirs.sendall(b"the next request")
        assert not has_left(ours)
        assert ours.recv(100) == b"the next request"  # has_left has taken none of it
        theirs.close()
        assert has_left(ours)
    assert has_left(ours)  # closed here
    assert not has_left(None)


@pytest.mark.parametrize("path", ["/predict", "/classify"])
def test_request_ends_early_when_its_caller_has_left(gateway, fake_model, path):
    ours, theirs = socket.socketpair()
    theirs.close()
    environ = {"gunicorn.socket": ours}
    answer = gateway.post(path, data=png(), content_type="image/png", environ_overrides=environ)
    ours.close()
    assert answer.status_code == 499
    assert not fake_model[0].requests


# URLs


def test_predict_keeps_the_order_of_urls(make_app, fake_model, picture_server):
    folder, address = picture_server
    colours = ["red", "lime", "blue"] * 10 + ["red", "lime"]
    for colour in set(colours):
        (folder / f"{colour}.png").write_bytes(png(colour))
    gateway = make_app(ALLOWED_ORIGINS=f"{address}/").test_client()
    urls = [f"{address}/{colour}.png" for colour in colours]
    answer = gateway.post("/predict", json={"urls": urls})
    seen = [max(scores, key=scores.get) for scores in answer.json]
    assert seen == [colour.replace("lime", "green") for colour in colours]
    assert len(fake_model[0].requests) == 1
    assert len(gateway.post("/predict", json={"urls": urls[:1]}).json) == 1  # a list of one
    assert gateway.post("/predict", json={"url": urls[2]}).json["blue"] == 255

    urls[5] = f"{address}/missing.png"
    answer = gateway.post("/predict", json={"urls": urls})
    assert "404" in problem_in(answer, "remote-status")
    assert answer.json["index"] == 5


def test_predict_fetches_no_more_than_a_request_may_have(gateway, monkeypatch):
    fetched = []

    def fetch(url, *, count, **_):
        fetched.append(url)
        count(MAX_BYTES // 2)
        return bytes(MAX_BYTES // 2)

    monkeypatch.setattr("gateway.incoming.fetch", fetch)
    # All downloads have their turn before the request ends, so that each must refuse to begin.
    monkeypatch.setattr("gateway.incoming.wait", lambda downloads, **_: futures.wait(downloads))
    answer = gateway.post("/predict", json={"urls": ["https://example.com/"] * 32})
    assert "20 MB" in problem_in(answer, "too-large")
    assert len(fetched) <= 4 + MAX_FETCHES  # four fit, and each thread may be under way with one


def test_predict_ends_downloads_as_soon_as_they_have_too_many_bytes(make_app):
    """Each of eight files is small enough, and none of them ever ends."""
    head = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MAX_BYTES // 2)
    with tcp_server(dripping(head, every=0.2, times=30)) as port:
        address = f"http://127.0.0.1:{port}/"
        gateway, begun = make_app(ALLOWED_ORIGINS=address).test_client(), time.monotonic()
        answer = gateway.post("/predict", json={"urls": [address] * 8})
    assert "20 MB" in problem_in(answer, "too-large")
    assert time.monotonic() - begun < 3


def test_predict_leaves_a_slow_origin_when_the_callers_time_is_up(make_app):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        gateway, begun = make_app(ALLOWED_ORIGINS=url).test_client(), time.monotonic()
        answer = gateway.post("/predict", headers={"Request-Timeout": "0.4"}, json={"url": url})
        problem_in(answer, "out-of-time")
        assert 0.3 < time.monotonic() - begun < 1


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
        {"json": {"urls": ["https://example.com/", 7]}},
        {"json": {"urls": "https://example.com/"}},
        {"data": b'{"url": "x"', "content_type": "application/json"},
        {"data": b"[" * 100_000, "content_type": "application/json"},
        {"data": b" " * MAX_JSON, "content_type": "application/json"},
        {"data": {"picture": "no file"}, "content_type": "multipart/form-data"},
    ],
)
def test_predict_says_what_to_send_in_place_of_a_bad_body(gateway, body):
    detail = problem_in(gateway.post("/predict", **body), "bad-request")
    assert 'form field "file"' in detail


@pytest.mark.parametrize("announced", [True, False])
def test_predict_refuses_long_json_before_it_is_parsed(gateway, announced):
    """A parser would say that this is no JSON."""
    body = {"input_stream": io.BytesIO(b"{" + b" " * MAX_JSON), "content_type": "application/json"}
    if announced:
        body["headers"] = {"Content-Length": str(MAX_JSON + 1)}
    else:
        body["environ_overrides"] = {"wsgi.input_terminated": True}  # it comes in chunks
    answer = gateway.post("/predict", **body)
    assert "JSON 512 KB" in problem_in(answer, "too-large")


@pytest.mark.parametrize("header", ["", "soon", "0", "-1", "nan", "5s"])
def test_predict_says_what_a_bad_timeout_should_be(gateway, header):
    answer = gateway.post("/predict", headers={"Request-Timeout": header}, **files(png()))
    assert "as in 2.5" in problem_in(answer, "bad-request")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_classify_says_which_content_types_it_reads(gateway, kind):
    answer = gateway.post("/classify", data=b'{"url": "https://x/"}', content_type=kind)
    assert "as application/json" in problem_in(answer, "unknown-content-type")


# Forms

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
        pytest.param(HEAD.replace(b'"file"', b'"photo"') + png("red") + END, id="another name"),
        pytest.param(HEAD.replace(b"form-data", b"attachment") + png("red") + END, id="no form"),
        pytest.param(b"--X\r\n\r\n" + png("red") + END, id="without headers"),
        pytest.param(HEAD.replace(b"a.png", b"\xff.png") + png("red") + END, id="no UTF-8"),
        pytest.param(HEAD[:-2] + b"A: b\r\n" * 99 + b"\r\n" + png("red") + END, id="99 headers"),
    ],
)
def test_predict_says_what_to_send_in_place_of_a_bad_form(gateway, body):
    answer = gateway.post("/predict", data=body, content_type="multipart/form-data; boundary=X")
    assert 'form field "file"' in problem_in(answer, "bad-request")


@pytest.mark.parametrize("pictures", [33, 5000])
def test_predict_says_how_many_pictures_it_takes(gateway, pictures):
    form = {"content_type": "multipart/form-data; boundary=X"}
    uploads = (HEAD + b"\r\n") * pictures + END[2:]
    for body in ({"data": uploads, **form}, {"json": {"urls": ["https://x.com/"] * pictures}}):
        assert "at most 32" in problem_in(gateway.post("/predict", **body), "bad-request")


@pytest.mark.parametrize("filename", [b"", b'; filename=""', b"; filename*=UTF-8''p%C3%A4.png"])
def test_predict_takes_a_file_whatever_its_name(gateway, filename):
    body = HEAD.replace(b'; filename="a.png"', filename) + png("red") + END
    answer = gateway.post("/predict", data=body, content_type="multipart/form-data; boundary=X")
    assert answer.json["red"] == 255


@pytest.mark.parametrize(
    ("boundary", "status"),
    [("; boundary=X", 200), ("", 400), ("; boundary=", 400), ('; boundary="\u00e4"', 400)],
)
def test_predict_reads_a_form_by_its_boundary(gateway, boundary, status):
    kind = f"multipart/form-data{boundary}"
    answer = gateway.post("/predict", data=HEAD + png("red") + END, content_type=kind)
    assert answer.status_code == status


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from([HEAD, END, HEAD[:-2], b"--X", b"\r\n", b":"]) | st.binary()))
def test_predict_answers_any_noise_in_a_form_with_400(gateway, pieces):
    answer = gateway.post(
        "/predict", data=b"".join(pieces), content_type="multipart/form-data; boundary=X"
    )
    assert answer.status_code == 400


def test_uploaded_files_are_whole_and_in_memory_once(gateway):
    contents = [os.urandom(MAX_BYTES - 1), os.urandom(MAX_BYTES)]
    environ = EnvironBuilder("/predict", method="POST", **files(*contents)).get_environ()
    with gateway.application.request_context(environ), HeldBytes() as held:
        tracemalloc.start()
        try:
            found = uploaded_files(held)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert found == contents
    assert peak < 1.3 * 2 * MAX_BYTES


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(files(bytes(MAX_BYTES + 1)), id="a file"),
        pytest.param(files(*[bytes(MAX_BYTES)] * 3), id="a request"),
        pytest.param({"data": bytes(MAX_BYTES + 1), "content_type": "image/png"}, id="a body"),
    ],
)
def test_predict_refuses_too_many_bytes(gateway, body):
    assert "10 MB" in problem_in(gateway.post("/predict", **body), "too-large")


# What all requests hold


@pytest.fixture
def nothing_held():
    """Wait until downloads that earlier tests gave up have ended."""
    wait_until(lambda: HeldBytes.in_process == 0, timeout=10, what="the end of earlier downloads")


@pytest.mark.usefixtures("nothing_held")
def test_add_counts_until_the_last_user_has_left():
    one, other = HeldBytes(), HeldBytes()
    with other:
        with one:
            with one:  # a download
                assert one.add(MAX_HELD - 5) == MAX_HELD - 5
            assert other.add(5) == 5
            with pytest.raises(BusyError):
                other.add(1)
        other.add(MAX_HELD)  # alone, it gets what it needs
        with one, pytest.raises(BusyError):
            one.add(1)
    assert HeldBytes.in_process == 0


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("way", ["form", "body", "url"])
def test_predict_reads_no_more_than_all_requests_may_hold(make_app, picture_server, way):
    folder, address = picture_server
    picture = bytes(MAX_BYTES)
    (folder / "large.png").write_bytes(picture)
    gateway = make_app(ALLOWED_ORIGINS=f"{address}/").test_client()
    with HeldBytes() as other:
        other.add(MAX_HELD - 2**20)
        if way == "form":
            answer = gateway.post("/predict", **files(picture))
        elif way == "body":
            answer = gateway.post("/predict", data=picture, content_type="image/png")
        else:
            answer = gateway.post("/predict", json={"urls": [f"{address}/large.png"] * 2})
        problem_in(answer, "busy")
    assert gateway.post("/predict", **files(png())).status_code == 200
    # A download that has begun ends after its request.
    wait_until(lambda: HeldBytes.in_process == 0, timeout=10, what="the end of all downloads")


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize(("takes_bytes", "status"), [(True, 200), (False, 503)])
def test_predict_counts_the_pixels_as_they_are_sent(make_app, fake_model, takes_bytes, status):
    fake_model[0].takes_bytes = takes_bytes
    gateway, picture, pixels = make_app().test_client(), png(), 4 * 6 * 3
    with HeldBytes() as other:
        other.add(MAX_HELD - len(picture) - 2 * pixels)  # float32 takes 4 bytes
        answer = gateway.post("/predict", data=picture, content_type="image/png")
    assert answer.status_code == status
