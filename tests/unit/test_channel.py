"""gateway/channel: what failing servers and wires cost."""

from contextlib import ExitStack, nullcontext

import grpc
import numpy as np
import pytest

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.model_client import ModelClient, describe, predict
from tests.fake_model import FakeModel, serve
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
