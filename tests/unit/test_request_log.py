"""gateway/operations/request_log, logs, metrics: what is known of a request."""

import io
import json
import re
from unittest import mock

import pytest

from gateway import problems
from gateway.errors import MAX_REQUEST, RemoteError
from gateway.operations.logs import JsonFormatter, choose_id
from tests.app_client import files, problem_in
from tests.pictures import png


@pytest.fixture
def service(make_service, picture_server):
    """The whole gateway, which may fetch from the picture server."""
    return make_service(ALLOWED_ORIGINS=f"{picture_server[1]}/")


@pytest.fixture
def lines(caplog):
    """A function that returns the log lines so far."""
    caplog.set_level("INFO", "gateway")
    caplog.handler.setFormatter(JsonFormatter())
    return lambda: [json.loads(line) for line in caplog.text.splitlines()]


def ask(service, path: str, **options):
    """Return the whole answer, with its end: only then is a request counted."""
    return service.test_client().open(path, buffered=True, **options)


def predict(service, picture: bytes | None = None, **headers: str):
    return ask(service, "/predict", method="POST", headers=headers, **files(picture or png()))


def metric(service, name: str, **labels: str) -> float | None:
    return service.extensions["metrics"].registry.get_sample_value(name, labels)


def test_request_log_takes_an_id_and_returns_it(service, lines):
    answer = predict(service, **{"X-Request-ID": "order-17"})
    assert answer.status_code == 200
    assert answer.headers.getlist("X-Request-ID") == ["order-17"]
    assert [line["request_id"] for line in lines()] == ["order-17"]


@pytest.mark.parametrize("proposed", [None, "", "two words", "a" * 129, "é", 'a"b', "a\nb"])
def test_choose_id_replaces_unsafe_ids(proposed):
    made = choose_id(proposed)
    assert made != proposed
    assert made != choose_id(proposed)
    assert choose_id(made) == made


def test_request_log_tells_what_happened_and_no_secrets(service, lines, picture_server):
    (picture_server[0] / "a.png").write_bytes(png())
    url = f"{picture_server[1]}/a.png?signature=secret"
    ask(service, "/predict?key=secret", method="POST", json={"url": url})
    blocked = {"url": "http://user:secret@127.0.0.1/"}
    problem_in(ask(service, "/predict", method="POST", json=blocked), "blocked-address")
    good, bad = lines()
    assert (good["method"], good["path"], good["status"]) == ("POST", "/predict", 200)
    assert good["seconds"] > 0
    assert "reason" not in good
    assert good["stages"].keys() == {"fetch", "decode", "model"}
    for stage in good["stages"]:
        assert 0 < metric(service, "gateway_stage_seconds_sum", stage=stage) < 5
    assert metric(service, "gateway_stage_seconds_count", stage="model") == 1
    assert (bad["status"], bad["reason"]) == (400, "blocked-address")
    assert "secret" not in json.dumps([good, bad])


def test_metrics_count_requests_under_few_paths(service):
    predict(service)
    for path in ("/predict", "/no/such/path", "/nor/this", "/static/page.css"):
        ask(service, path)
    for path, status, number in (
        ("/predict", "200", 1),
        ("/predict", "405", 1),
        ("other", "404", 2),
        ("other", "200", 1),
    ):
        assert metric(service, "gateway_requests_total", path=path, status=status) == number
    assert metric(service, "gateway_request_seconds_count", path="other") == 3
    assert metric(service, "gateway_in_flight") == 0
    assert metric(service, "process_open_fds") > 0


REMOTE = [name for name, kind in problems.KINDS.items() if kind.raised is RemoteError]


@pytest.mark.parametrize("name", REMOTE)
def test_metrics_and_log_name_why_an_address_gives_no_picture(service, lines, monkeypatch, name):
    failure = mock.Mock(side_effect=RemoteError(name, "why"))
    monkeypatch.setattr("gateway.incoming.fetch", failure)
    problem_in(ask(service, "/predict", method="POST", json={"url": "http://a.example/"}), name)
    assert metric(service, "gateway_rejected_total", reason=name) == 1
    assert lines()[0]["reason"] == name


def test_unexpected_error_is_logged_with_the_id_and_not_shown(service, lines, monkeypatch):
    monkeypatch.setattr("gateway.model_client.predict", lambda *_, **__: 1 / 0)
    answer = predict(service, **{"X-Request-ID": "order-18"})
    assert (answer.status_code, answer.json["title"]) == (500, "Internal Server Error")
    assert "division" not in answer.text
    [trace, line] = lines()
    assert "division" in trace["exception"]
    assert trace["request_id"] == line["request_id"] == "order-18"
    assert line["status"] == 500
    assert metric(service, "gateway_in_flight") == 0


@pytest.mark.parametrize(
    ("headers", "size", "name", "words"),
    [
        ({}, 25 * 2**20, "too-large", f"{MAX_REQUEST >> 20} MB"),
        ({"Content-Encoding": "gzip"}, 2**20, "unknown-content-type", "without Content-Encoding"),
    ],
)
def test_refused_body_is_read_so_that_the_client_sees_why(service, headers, size, name, words):
    body = io.BytesIO(bytes(size))
    options = {"input_stream": body, "content_length": size, "content_type": "image/png"}
    answer = ask(service, "/predict", method="POST", headers=headers, **options)
    assert words in problem_in(answer, name)
    assert body.tell() == size
    assert metric(service, "gateway_rejected_total", reason=name) == 1


@pytest.mark.parametrize(("proxies", "caller"), [(0, "127.0.0.1"), (1, "9.9.9.9"), (2, "8.8.8.8")])
def test_caller_is_whom_the_proxies_name(make_service, lines, proxies, caller):
    forwarded = {"X-Forwarded-For": "7.7.7.7, 8.8.8.8, 9.9.9.9", "X-Forwarded-Host": "a, b"}
    ask(make_service(PROXIES=proxies), "/", headers=forwarded)
    assert lines()[0]["caller"] == caller


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_page_has_relative_addresses_and_headers_for_browsers(service, path):
    page = ask(service, path)
    assert 'href="static/page.css"' in page.text
    assert not re.search(r"""(href|src|action)=["']/""", page.text)
    assert "frame-ancestors 'self'" in page.headers["Content-Security-Policy"]
    for name, value in {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }.items():
        assert page.headers[name] == value


def test_request_over_the_limit_is_logged_and_told_when_to_come_back(service, lines):
    service.extensions["limit"].in_flight = service.config["THREADS"] - 2
    problem_in(predict(service), "busy")
    assert metric(service, "gateway_rejected_total", reason="busy") == 1
    [line] = lines()
    assert (line["status"], line["reason"]) == (503, "busy")
    service.extensions["limit"].in_flight -= 1
    assert predict(service).status_code == 200
