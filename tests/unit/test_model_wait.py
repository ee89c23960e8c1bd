"""gateway/operations/model_wait: requests wait for a model that is scaled to zero."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from gateway import channel as channels
from gateway.channel import LazyChannel, is_connected
from gateway.deadline import Deadline
from gateway.operations.service import create_service
from tests import dns_server
from tests.app_client import files, problem_in
from tests.fake_model import FakeModel, serve
from tests.pictures import png
from tutorial.processes import free_port, wait_until

WAIT = 1.5  # seconds


@pytest.fixture
def away(contract_file):
    """A gateway that waits for its model, and a function that starts the model."""
    port = free_port()
    app = create_service(
        MODEL_ADDRESS=f"127.0.0.1:{port}", CONTRACT=contract_file, MODEL_WAIT=WAIT, THREADS=4
    )
    with ExitStack() as stack:
        yield app, lambda model: stack.enter_context(serve(model, port))


def in_flight(app) -> float:
    """Return what the autoscaler sees."""
    return app.extensions["metrics"].registry.get_sample_value("gateway_in_flight")


def post(app, **headers: str) -> tuple:
    """Return the answer to a picture, and the seconds that it took."""
    begun = time.monotonic()
    with app.test_client().post("/classify", headers=headers, **files(png())) as answer:
        answer.get_data()
    return answer, time.monotonic() - begun


@pytest.mark.parametrize("headers", [{}, {"Request-Timeout": "5"}])
def test_request_waits_for_the_model_is_seen_meanwhile_and_pages_do_not_wait(away, headers):
    app, start_model = away
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(lambda: post(app, **headers))
        wait_until(lambda: in_flight(app) == 1, timeout=1, interval=0.02, what="the request")
        assert app.test_client().get("/", buffered=True).status_code == 200
        assert not caller.done()
        start_model(FakeModel())
        answer, seconds = caller.result()
    assert answer.status_code == 200
    assert 0 < answer.json["seconds"]["wait"] < seconds
    assert in_flight(app) == 0


@pytest.mark.parametrize(("allowed", "most"), [("inf", WAIT), ("60", WAIT), ("0.5", 0.5)])
def test_request_is_refused_when_its_wait_is_over(away, allowed, most):
    answer, seconds = post(away[0], **{"Request-Timeout": allowed})
    problem_in(answer, "no-model")
    assert most <= seconds < most + 0.5
    counted = away[0].extensions["metrics"].registry.get_sample_value
    assert counted("gateway_rejected_total", {"reason": "no-model"}) == 1


def test_time_spent_waiting_counts_as_the_callers(away):
    app, start_model = away
    with ThreadPoolExecutor(1) as pool:
        caller = pool.submit(post, app, **{"Request-Timeout": "1.2"})
        wait_until(lambda: in_flight(app) == 1, timeout=1, interval=0.02, what="the request")
        time.sleep(0.6)
        start_model(FakeModel(delay=2))
        answer, seconds = caller.result()
    problem_in(answer, "out-of-time")
    assert seconds < 1.7


def test_wait_ends_at_once_when_the_caller_leaves(away):
    app, _ = away
    ours, theirs = socket.socketpair()
    client = app.test_client()
    client.environ_base["gunicorn.socket"] = ours
    with ours, ThreadPoolExecutor(1) as pool:
        left = pool.submit(lambda: client.post("/predict", buffered=True, **files(png())))
        wait_until(lambda: in_flight(app) == 1, timeout=1, interval=0.02, what="the request")
        theirs.sendall(b"a body that is not read yet")
        theirs.close()
        assert left.result(1).status_code == 499


@pytest.mark.parametrize("timeout", ["0", "nan", "-1", "soon"])
def test_bad_request_timeout_is_refused_at_once(away, timeout):
    answer, seconds = post(away[0], **{"Request-Timeout": timeout})
    assert answer.status_code == 400
    assert seconds < 0.5


def test_gateway_is_ready_without_a_model_and_not_with_a_wrong_one(away):
    app, start_model = away
    readiness, channel = app.extensions["readiness"], app.extensions["model"].channel()
    readiness.confirm()
    model = FakeModel()
    model.failure = grpc.StatusCode.INTERNAL
    start_model(model)
    wait_until(lambda: is_connected(channel), timeout=5, what="the model")
    readiness.MAX_AGE = 0
    for _ in range(2):
        readiness.confirm()
    with pytest.raises(grpc.RpcError, match="INTERNAL"):
        readiness.confirm()


def test_wait_asks_dns_again_for_a_name_that_had_no_address(monkeypatch):
    """gRPC by itself would ask after 0, 1, 2.6 and 5.7 seconds."""
    monkeypatch.setattr(channels, "LOOK_AGAIN", 0.5)
    names, port = [], free_port()
    with dns_server.serve(names) as dns, ThreadPoolExecutor(4) as pool, serve(FakeModel(), port):
        channel = LazyChannel(f"dns://127.0.0.1:{dns}/model.clothing.svc:{port}")
        waiting = [pool.submit(channel.wait, Deadline.after(10)) for _ in range(4)]
        time.sleep(3.2)
        assert not any(each.done() for each in waiting)
        names.append("127.0.0.1")
        begun = time.monotonic()
        for each in waiting:
            each.result()
        assert time.monotonic() - begun < 1.5
