"""gateway/service, logs, metrics, tracing: what is known of a request, and what is not told."""

import io
import json
import logging
import subprocess
import sys
import threading

import pytest
from PIL import Image
from prometheus_client import generate_latest
from werkzeug.test import Client

from gateway.logs import JsonFormatter, choose_id
from gateway.service import Service
from gateway.settings import Settings
from gateway.shedding import Shedding


@pytest.fixture
def service(fake_model, contract_file, picture_server) -> Service:
    return Service(
        Settings(
            model_address=fake_model[1],
            contract=contract_file,
            allowed_origins=f"{picture_server[1]}/",
        )
    )


@pytest.fixture
def lines():
    """The requests' log lines, as they are written."""

    class Lines(list):
        def write(self, text: str) -> None:
            self.extend(map(json.loads, filter(None, text.split("\n"))))

    lines = Lines()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    log = logging.getLogger("gateway")
    log.addHandler(handler)
    log.setLevel("INFO")
    yield lines
    log.removeHandler(handler)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "lime").save(file, "PNG")
    return file.getvalue()


def ask(app, path: str, **options):
    """The whole answer, its end included, which is when a request is counted."""
    return Client(app).open(path, buffered=True, **options)


def predict(service: Service, **headers: str):
    data = {"file": (io.BytesIO(png()), "a")}
    return ask(service, "/predict", method="POST", data=data, headers=headers)


def metric(service: Service, name: str) -> float | None:
    for line in generate_latest(service.metrics.registry).decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    return None


def test_an_id_is_taken_returned_logged_and_passed_on(service, fake_model, lines):
    answer = predict(service, **{"X-Request-ID": "order-17"})
    assert answer.status_code == 200
    assert answer.headers.getlist("X-Request-ID") == ["order-17"]
    assert fake_model[0].metadata["x-request-id"] == "order-17"
    assert [line["request_id"] for line in lines] == ["order-17"]


@pytest.mark.parametrize("proposed", [None, "", "two words", "a" * 129, "é", 'a"b', "a\nb"])
def test_what_is_no_sane_id_is_replaced(proposed):
    made = choose_id(proposed)
    assert made != proposed
    assert made != choose_id(proposed)
    assert choose_id(made) == made


def test_a_line_tells_what_happened_and_no_secrets(service, lines, picture_server):
    (picture_server[0] / "a.png").write_bytes(png())
    url = f"{picture_server[1]}/a.png?signature=secret"
    answer = ask(service, "/predict?key=secret", method="POST", json={"url": url})
    assert answer.status_code == 200
    ask(service, "/predict", method="POST", json={"url": "http://user:secret@127.0.0.1/"})
    good, bad = lines
    assert (good["method"], good["path"], good["status"]) == ("POST", "/predict", 200)
    assert good["seconds"] > 0
    assert "reason" not in good
    assert (bad["status"], bad["reason"]) == (400, "blocked_address")
    assert "secret" not in json.dumps(lines)


def test_requests_are_counted_under_few_names(service):
    predict(service)
    ask(service, "/no/such/path")
    ask(service, "/nor/this")
    assert metric(service, 'gateway_requests_total{path="/predict",status="200"}') == 1
    assert metric(service, 'gateway_requests_total{path="other",status="404"}') == 2
    assert metric(service, 'gateway_request_seconds_count{path="other"}') == 2
    assert metric(service, "gateway_in_flight") == 0
    assert metric(service, "process_open_fds") > 0


def test_stages_are_measured(service, lines, picture_server):
    (picture_server[0] / "a.png").write_bytes(png())
    ask(service, "/predict", method="POST", json={"url": f"{picture_server[1]}/a.png"})
    assert lines[0]["stages"].keys() == {"fetch", "decode", "model"}
    for stage in ("fetch", "decode", "model"):
        assert metric(service, f'gateway_stage_seconds_count{{stage="{stage}"}}') == 1


def test_rejections_are_counted_by_reason(service, fake_model):
    ask(service, "/predict", method="POST", json={"url": "http://127.0.0.1:1/"})
    ask(service, "/predict", method="POST", data={"file": (io.BytesIO(b"no picture"), "a")})
    import grpc

    predict(service)
    fake_model[0].failure = grpc.StatusCode.DEADLINE_EXCEEDED
    predict(service)
    for reason in ("blocked_address", "bad_picture", "model_too_slow"):
        assert metric(service, f'gateway_rejected_total{{reason="{reason}"}}') == 1


def test_what_nobody_foresaw_is_logged_with_the_requests_id(service, lines, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("not foreseen")

    monkeypatch.setattr(service.app.extensions["model"], "predict", fail)
    answer = predict(service, **{"X-Request-ID": "order-18"})
    assert answer.status_code == 500
    [trace, line] = lines
    assert "not foreseen" in trace["exception"]
    assert trace["request_id"] == line["request_id"] == "order-18"


def test_a_body_that_ends_too_soon_is_a_408(service, lines):
    answer = ask(
        service,
        "/predict",
        method="POST",
        input_stream=io.BytesIO(b"half"),
        content_type="application/json",
        environ_overrides={"CONTENT_LENGTH": "1000"},
    )
    assert answer.status_code == 408
    assert answer.mimetype == "application/problem+json"
    assert lines[0]["reason"] == "slow_caller"


def test_more_than_so_many_are_refused_and_places_come_back(service):
    hold, entered = threading.Event(), threading.Semaphore(0)

    def held(environ, start_response):
        entered.release()
        hold.wait(5)
        start_response("200 OK", [])
        return [b""]

    def full(environ, start_response):
        start_response("503 Service Unavailable", [])
        return [b""]

    limited = Shedding(held, full, most=2)
    callers = [threading.Thread(target=ask, args=(limited, "/")) for _ in range(2)]
    for caller in callers:
        caller.start()
        assert entered.acquire(timeout=5)
    assert ask(limited, "/").status_code == 503
    hold.set()
    for caller in callers:
        caller.join()
    assert limited.in_flight == 0
    assert ask(limited, "/").status_code == 200


def test_a_refusal_says_when_to_come_back(fake_model, contract_file):
    service = Service(Settings(model_address=fake_model[1], contract=contract_file, threads=3))
    service.limit.in_flight = 1
    answer = predict(service)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "1"
    assert answer.mimetype == "application/problem+json"
    assert metric(service, 'gateway_rejected_total{reason="overload"}') == 1


def test_without_a_collector_tracing_costs_nothing(root):
    code = "import sys, gateway.service; print([m for m in sys.modules if 'opentelemetry' in m])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "[]\n"
