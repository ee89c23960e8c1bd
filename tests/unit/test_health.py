"""gateway/operations/health: alive, ready and draining are different things."""

import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import grpc
import pytest
import requests
from prometheus_client import CollectorRegistry, Counter

from gateway.operations.health import Readiness, create_admin, serve

FAILURE = ConnectionError("told to fail")


@pytest.fixture
def clock(monkeypatch):
    """The gateway's clock: it stands still until its `now` is changed."""
    clock = SimpleNamespace(now=1000.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("gateway.operations.health.time", clock)
    return clock


def ready(readiness) -> bool:
    try:
        readiness.confirm()
    except ConnectionError:
        return False
    return True


def test_confirm_asks_again_after_two_seconds(clock):
    check = Mock()
    readiness = Readiness(check, of="it")
    assert [ready(readiness) for _ in range(10)] == [True] * 10
    assert check.call_count == 1
    clock.now += 2.1
    assert ready(readiness)
    assert check.call_count == 2


def test_confirm_raises_before_the_first_success_and_after_three_failures_in_a_row(clock, caplog):
    caplog.set_level("INFO", "gateway")
    failures = (1, 0, 1, 1, 0, 1, 1, 1, 1, 0)
    check = Mock(side_effect=[FAILURE if fails else None for fails in failures])
    readiness = Readiness(check, of="it")
    for wanted in (False, True, True, True, True, True, True, False, False, True):
        clock.now += 2.1
        assert ready(readiness) == wanted
    assert caplog.messages == ["it: not ready: told to fail", "it: ready"] * 2


def test_confirm_logs_what_grpc_says(caplog):
    unavailable = grpc.StatusCode.UNAVAILABLE
    error = grpc.aio.AioRpcError(unavailable, (), (), details="no such host")
    with pytest.raises(grpc.RpcError):
        Readiness(Mock(side_effect=error), of="it").confirm()
    assert caplog.messages == ["it: not ready: UNAVAILABLE no such host"]


def test_confirm_asks_once_for_many_threads():
    check = Mock(side_effect=lambda: time.sleep(0.1))
    readiness = Readiness(check, of="it")
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: ready(readiness), range(8)))
    assert check.call_count == 1


@pytest.fixture
def admin():
    """A second port's answers, and its check."""
    registry = CollectorRegistry()
    Counter("seen", "For the test", registry=registry).inc()
    check = Mock()
    return create_admin(Readiness(check, of="it"), registry, draining=lambda: False), check


def test_readyz_fails_with_the_check_and_livez_does_not(admin):
    answers, check = admin
    check.side_effect = FAILURE
    for path, status, text in (
        ("/livez", 200, "alive"),
        ("/readyz", 503, "not ready: told to fail"),
    ):
        answer = answers.test_client().get(path)
        assert (answer.status_code, answer.json["status"]) == (status, text)


@pytest.fixture
def port(admin):
    """The second port, served until the test ends."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = serve(admin[0], listener)
    yield server.port
    server.shutdown()
    server.server_close()


def test_serve_answers_beside_silent_clients(port):
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    with requests.Session() as session:
        for path, part in (("livez", "alive"), ("metrics", "seen_total 1.0")):
            answer = session.get(f"http://127.0.0.1:{port}/{path}", timeout=1)
            assert answer.status_code == 200
            assert part in answer.text
    for one in silent:
        one.close()


def test_serve_answers_head_and_shows_no_versions(port):
    answer = requests.head(f"http://127.0.0.1:{port}/metrics", timeout=1)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Server"] == "gateway"


def test_metrics_come_in_the_format_that_was_asked_for(admin):
    asked = "application/openmetrics-text; version=1.0.0"
    answer = admin[0].test_client().get("/metrics", headers={"Accept": asked})
    assert answer.content_type.startswith(asked)


def test_serve_logs_nothing_about_probes(port, capsys):
    for _ in range(8):
        prober = socket.create_connection(("127.0.0.1", port))
        prober.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        prober.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        prober.close()  # with a reset, as load balancers do
    assert requests.get(f"http://127.0.0.1:{port}/livez", timeout=1).status_code == 200
    assert capsys.readouterr().err == ""
