"""gateway/operations/health: alive, ready and draining are different things."""

import http.client
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry, Counter

from gateway.operations.health import Readiness, create_admin, serve


class Check:
    """A check that passes or fails as told, and counts how often it was asked."""

    asked, passing = 0, True

    def __call__(self):
        self.asked += 1
        if not self.passing:
            raise ConnectionError("told to fail")


@pytest.fixture
def clock(monkeypatch):
    """A function that lets seconds pass for the gateway."""
    passed = [1000.0]
    monkeypatch.setattr(
        "gateway.operations.health.time", SimpleNamespace(monotonic=lambda: passed[0])
    )
    return lambda seconds: passed.append(passed.pop() + seconds)


def ready(readiness) -> bool:
    try:
        readiness.confirm()
    except ConnectionError:
        return False
    return True


def test_confirm_asks_again_after_two_seconds(clock):
    check = Check()
    readiness = Readiness(check)
    assert [ready(readiness) for _ in range(10)] == [True] * 10
    assert check.asked == 1
    clock(2.1)
    assert ready(readiness)
    assert check.asked == 2


def test_confirm_raises_after_three_failures_in_a_row(clock):
    check = Check()
    readiness = Readiness(check)
    seen = []
    for passing in (True, False, False, True, False, False, False, False, True):
        check.passing = passing
        clock(2.1)
        seen += [ready(readiness)]
    assert seen == [True, True, True, True, True, True, False, False, True]


def test_confirm_raises_before_the_first_success(clock):
    check = Check()
    check.passing = False
    readiness = Readiness(check)
    assert not ready(readiness)
    check.passing = True
    clock(2.1)
    assert ready(readiness)


def test_confirm_asks_once_for_many_threads():
    check = Check()
    readiness = Readiness(lambda: (time.sleep(0.1), check()))
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(lambda _: ready(readiness), range(8)))
    assert check.asked == 1


@pytest.fixture
def admin():
    """A second port's answers, with a check and whether it drains to be set."""
    registry = CollectorRegistry()
    Counter("seen", "For the test", registry=registry).inc()
    check, state = Check(), SimpleNamespace(draining=False)
    return create_admin(Readiness(check), registry, lambda: state.draining), check, state


def state_at(admin, path: str) -> tuple[int, str]:
    answer = admin.test_client().get(path)
    return answer.status_code, answer.json["status"]


def test_readyz_fails_with_the_check_and_livez_does_not(admin):
    answers, check, _ = admin
    check.passing = False
    assert state_at(answers, "/livez") == (200, "alive")
    assert state_at(answers, "/readyz") == (503, "not ready: told to fail")


def test_readyz_fails_while_shutting_down(admin):
    answers, _, state = admin
    assert state_at(answers, "/readyz?verbose") == (200, "ready")
    state.draining = True
    assert state_at(answers, "/livez") == (200, "alive")
    assert state_at(answers, "/readyz") == (503, "not ready: shutting down")


def test_serve_answers_beside_silent_clients(admin):
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    server = serve(admin[0], listener)
    silent = [socket.create_connection(address) for _ in range(8)]
    connection = http.client.HTTPConnection(*address, timeout=1)
    for path in ("/livez", "/metrics"):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 200
        body = answer.read()
    assert b"seen_total 1.0" in body
    server.shutdown()
    server.server_close()
    for one in (connection, *silent):
        one.close()


def test_serve_logs_nothing_about_probes(admin, capsys):
    listener = socket.create_server(("127.0.0.1", 0))
    server = serve(admin[0], listener)
    for _ in range(8):
        prober = socket.create_connection(listener.getsockname())
        prober.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        prober.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        prober.close()  # with a reset, as load balancers do
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=1)
    connection.request("GET", "/livez")
    assert connection.getresponse().status == 200
    connection.close()
    server.shutdown()
    server.server_close()
    assert capsys.readouterr().err == ""
