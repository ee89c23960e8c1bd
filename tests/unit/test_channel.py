"""gateway/channel: what failing servers and wires cost."""

import threading
import time
from contextlib import ExitStack, nullcontext

import grpc
import numpy as np
import pytest

from gateway.channel import CHANNEL_OPTIONS, LazyChannel
from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.model_client import ModelClient, describe, predict
from tests.fake_model import FakeModel, serve
from tests.tcp_proxy import TcpProxy
from tutorial.processes import free_port

PICTURES = np.zeros((2, 4, 6, 3), np.uint8)
PHOTO = np.zeros((1, 299, 299, 3), np.uint8)  # 1 MB as float32: four times gRPC's retry buffer


@pytest.fixture
def start(contract_file):
    """A function that makes a client for an address."""
    contract = Contract.read(contract_file)
    return lambda address: ModelClient(LazyChannel(address), contract)


@pytest.mark.parametrize(
    "form", ["localhost:{}", "dns:///localhost:{}", "ipv4:///127.0.0.1:{}", "127.0.0.1:{}"]
)
def test_channel_takes_several_forms_of_an_address(fake_model, start, form):
    port = fake_model[1].rpartition(":")[2]
    describe(start(form.format(port)), timeout=5)


def test_channel_uses_no_proxy(fake_model, start, monkeypatch):
    for variable in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{free_port()}")
    describe(start(fake_model[1]), timeout=5)


def test_lazy_channel_is_opened_once_at_its_first_use():
    channel = LazyChannel("no such host")
    assert channel._channel is None
    assert channel() is channel()


def test_predict_finds_a_model_that_comes_back(start):
    port, model = free_port(), FakeModel()
    client = start(f"127.0.0.1:{port}")
    with serve(model, port):
        predict(client, PICTURES, timeout=5)
    with ExitStack() as stack:
        # Four retries alone would be over after 1.5 s.
        revival = threading.Timer(2, lambda: stack.enter_context(serve(model, port)))
        revival.start()
        predict(client, PICTURES, timeout=5)
        revival.join()


@pytest.mark.parametrize(("refusals", "answered"), [(1, True), (4, True), (5, False)])
def test_predict_tries_a_refused_photo_again_four_times(start, refusals, answered):
    model = FakeModel(side=299)
    model.takes_bytes = False
    with serve(model) as address:
        client = start(address)
        describe(client, timeout=5)
        model.refusals = refusals
        unavailable = pytest.raises(grpc.RpcError, match=r"StatusCode\.UNAVAILABLE")
        with nullcontext() if answered else unavailable:
            predict(client, PHOTO, timeout=5)
    assert len(model.requests) == answered
    assert model.refusals == 0


def test_predict_is_spread_over_all_replicas(start):
    models = [FakeModel() for _ in range(3)]
    with ExitStack() as stack:
        addresses = [stack.enter_context(serve(model)) for model in models]
        client = start(f"ipv4:///{','.join(addresses)}")
        predict(client, PICTURES, timeout=5)
        deadline = Deadline.after(5)
        while not all(model.requests for model in models):  # connecting takes its time
            predict(client, PICTURES, timeout=deadline.remaining())
        before = [len(model.requests) for model in models]
        for _ in range(30):
            predict(client, PICTURES, timeout=5)
        shares = [len(m.requests) - n for m, n in zip(models, before, strict=True)]
    assert shares == [10, 10, 10]


@pytest.fixture
def wired(start):
    """A model of photos behind a wire, and a client that has used it: (wire, client)."""
    with serve(FakeModel(side=299)) as address, TcpProxy(int(address.split(":")[1])) as wire:
        client = start(wire.address)
        predict(client, PHOTO, timeout=5)
        yield wire, client


def test_predict_loses_no_answer_to_a_slow_connection_that_is_cut(wired):
    wire, client = wired
    wire.delay = 0.2
    threading.Timer(0.1, wire.cut).start()
    begun = time.monotonic()
    predict(client, PHOTO, timeout=5)
    assert time.monotonic() - begun > 0.25  # it was not over before the cut


def test_predict_leaves_a_silent_server_after_the_timeout_and_finds_it_again(wired):
    wire, client = wired
    wire.black_hole()
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError, match=r"StatusCode\.DEADLINE_EXCEEDED"):
        predict(client, PHOTO, timeout=0.5)
    assert time.monotonic() - begun < 1
    wire.repair()
    predict(client, PHOTO, timeout=5)


def test_keepalive_gives_up_a_silent_connection(start, monkeypatch):
    """The pictures are small: large ones fill the socket, which the system notices by itself."""
    for option, value in CHANNEL_OPTIONS.items():  # a tenth of the times, to be quick
        if "keepalive" in option or "ping" in option:
            monkeypatch.setitem(CHANNEL_OPTIONS, option, value // 10)
    with serve(FakeModel()) as address, TcpProxy(int(address.split(":")[1])) as wire:
        client = start(wire.address)
        predict(client, PICTURES, timeout=5)
        wire.black_hole()
        begun = time.monotonic()
        predict(client, PICTURES, timeout=30)
        assert 0.2 < time.monotonic() - begun < 3


def test_predict_is_not_tried_again_after_many_refusals(start):
    model = FakeModel()
    with serve(model) as address:
        client = start(address)
        describe(client, timeout=5)
        model.refusals = 1000
        for _ in range(30):
            with pytest.raises(grpc.RpcError, match=r"StatusCode\.UNAVAILABLE"):
                predict(client, PICTURES, timeout=10)
    attempts = 1000 - model.refusals
    assert 50 < attempts < 90  # 150 without a limit
