"""gateway/operations/cancellation: calls of callers who left end, and are counted."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from flask import Flask

from gateway.channel import LazyChannel
from gateway.errors import CallerLeftError
from gateway.operations.cancellation import CancellableChannel, CancelledWork
from gateway.operations.metrics import Metrics
from tutorial.processes import wait_until

METHOD = "/test/Wait"


@pytest.fixture
def server():
    """Address of a server whose method waits, and a list of its calls that were cancelled."""
    cancelled = []

    def wait(request, context):
        time.sleep(0.5)
        if not context.is_active():
            cancelled.append(request)
        return request

    handlers = {"Wait": grpc.unary_unary_rpc_method_handler(wait)}
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", cancelled
    server.stop(None).wait()


@pytest.fixture
def caller():
    """Both ends of a caller's connection, and a context of its request."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = {"gunicorn.socket": ours}
        yield theirs, Flask(__name__).test_request_context(environ_overrides=environ)


def test_call_ends_when_its_caller_leaves(server, caller):
    (address, cancelled), (theirs, context) = server, caller
    channel = CancellableChannel(LazyChannel(address))

    def call(request: bytes) -> bytes:
        return channel().unary_unary(METHOD)(request, timeout=5)

    assert call(b"of no caller") == b"of no caller"
    with context, ThreadPoolExecutor() as pool:
        pool.submit(lambda: (time.sleep(0.1), theirs.close()))
        with pytest.raises(CallerLeftError) as error:
            call(b"second")
    wait_until(lambda: cancelled == [b"second"], timeout=5, what="the server to notice")
    del error  # until here it kept the call, which gRPC cancels when nothing refers to it


def test_cancelled_work_is_counted_by_stage_and_compared_with_the_least():
    metrics = Metrics()
    work = CancelledWork(metrics)

    def value(name: str, **labels: str) -> float:
        return metrics.registry.get_sample_value(f"gateway_{name}_total", labels) or 0

    for model in (0.4, 0.3, 0.7):
        work.count({"decode": 0.1, "model": model}, "")
    work.count({"decode": 0.1}, "bad-picture")
    assert value("cancelled_seconds", work="wasted") == 0
    work.count({"fetch": 1, "decode": 0.05}, "caller-left")
    work.count({"decode": 0.1, "model": 0.9}, "out-of-time")
    assert value("cancelled", stage="decode", reason="caller-left") == 1
    assert value("cancelled", stage="model", reason="out-of-time") == 1
    assert value("cancelled_seconds", work="wasted") == pytest.approx(2.05)
    assert value("cancelled_seconds", work="saved") == pytest.approx(0.1 + 0.3 + 0.3)
