"""gateway/model_client against a fake model: names from the model, meaning from the contract."""

import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import grpc
import numpy as np
import pytest
from tensorflow.core.framework import types_pb2

from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.model_client import (
    CHANNEL_OPTIONS,
    ModelClient,
    ModelMismatchError,
    Signature,
    choose_signature,
    ways_to_call,
)
from tests.fake_model import FakeModel, serve, signature
from tests.tcp_proxy import TcpProxy
from tutorial.processes import free_port

PICTURES = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)


@pytest.fixture
def contract(contract_file):
    return Contract.read(contract_file)


def test_names_and_size_come_from_the_model(fake_model, contract):
    client = ModelClient(fake_model[1], contract)
    assert client.signature(timeout=5) == Signature(
        "serving_default", "photo", (4, 6), np.dtype(np.float32), "kinds"
    )


@pytest.mark.parametrize(
    "form", ["localhost:{}", "dns:///localhost:{}", "ipv4:///127.0.0.1:{}", "127.0.0.1:{}"]
)
def test_an_address_may_have_several_forms(fake_model, contract, form):
    port = fake_model[1].rpartition(":")[2]
    ModelClient(form.format(port), contract).describe(timeout=5)


def test_scores_come_back_in_order(fake_model, contract):
    model, address = fake_model
    scores, version = ModelClient(address, contract).predict(PICTURES, timeout=5)
    assert version == 1
    np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    [request] = model.requests
    assert request.model_spec.name == "fake"
    assert list(request.output_filter) == ["kinds"]


def test_pixels_go_as_they_are_to_a_model_that_takes_them(fake_model, contract):
    model, address = fake_model
    ModelClient(address, replace(contract, preprocessing="unit")).predict(PICTURES, timeout=5)
    [request] = model.requests
    assert request.model_spec.signature_name == "serving_uint8"
    assert request.inputs["photo"].tensor_content == PICTURES.tobytes()


def test_they_are_scaled_for_one_that_does_not(fake_model, contract):
    model, address = fake_model
    model.takes_bytes = False
    ModelClient(address, replace(contract, preprocessing="unit")).predict(PICTURES, timeout=5)
    [request] = model.requests
    assert request.model_spec.signature_name == "serving_default"
    scaled = PICTURES.astype(np.float32) / 255
    assert request.inputs["photo"].tensor_content == scaled.tobytes()


@pytest.mark.parametrize("name", ["serving_default", "serving_uint8"])
def test_a_signature_that_is_named_is_called_and_no_other(fake_model, contract, name):
    model, address = fake_model
    client = ModelClient(address, contract, signature_name=name)
    client.predict(PICTURES, timeout=5)
    assert model.requests[0].model_spec.signature_name == name
    model.takes_bytes = False
    if name == "serving_uint8":
        with pytest.raises(grpc.RpcError) as error:
            client.predict(PICTURES, timeout=5)
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        with pytest.raises(ModelMismatchError, match="no signature 'serving_uint8'"):
            client.predict(PICTURES, timeout=5)


def test_no_request_is_lost_to_a_version_without_the_signature_for_pixels(fake_model, contract):
    model, address = fake_model
    client = ModelClient(address, contract)
    client.signature(timeout=5)
    model.takes_bytes = False  # of two versions that are both there, the other answers
    for _ in range(2):
        scores = client.predict(PICTURES, timeout=5).scores
        np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    names = [request.model_spec.signature_name for request in model.requests]
    assert names == ["serving_default"] * 2


def test_a_signature_that_differs_in_more_than_its_type_is_not_called(contract):
    own, pixels = signature(), signature(dtype=types_pb2.DT_UINT8)
    pixels.outputs["kinds"].dtype = types_pb2.DT_FLOAT
    found = ways_to_call({"serving_default": own, "serving_uint8": pixels}, contract)
    assert [way.name for way in found] == ["serving_uint8", "serving_default"]
    larger = signature(inputs={"photo": (-1, 8, 6, 3)})
    larger.inputs["photo"].dtype = types_pb2.DT_UINT8
    for other in (own, larger, signature(inputs={"photo": (-1, 4)})):
        found = ways_to_call({"serving_default": own, "serving_uint8": other}, contract)
        assert [way.name for way in found] == ["serving_default"]
    bytewise = replace(contract, signature_name="serving_uint8")
    assert [way.name for way in ways_to_call({"serving_uint8": pixels}, bytewise)] == [
        "serving_uint8"
    ]


def test_nothing_is_opened_before_the_first_call(contract):
    ModelClient("no such host", contract)


def test_an_absent_model_is_waited_for_no_longer_than_the_timeout(contract):
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        ModelClient("127.0.0.1:1", contract).predict(PICTURES, timeout=0.3)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.25 < time.monotonic() - begun < 1


def test_a_model_that_comes_back_is_found(contract):
    port, model = free_port(), FakeModel()
    client = ModelClient(f"127.0.0.1:{port}", contract)
    with serve(model, port):
        client.predict(PICTURES, timeout=5)
    with ExitStack() as stack:
        # Four retries alone would be over after 1.5 s.
        revival = threading.Timer(2, lambda: stack.enter_context(serve(model, port)))
        revival.start()
        client.predict(PICTURES, timeout=5)
        revival.join()


PHOTO = np.zeros((1, 299, 299, 3), np.uint8)  # 1 MB as float32: four times gRPC's retry buffer


@pytest.mark.parametrize(("refusals", "answered"), [(1, True), (4, True), (5, False)])
def test_a_refused_photo_is_tried_again_four_times(contract, refusals, answered):
    model = FakeModel(side=299)
    model.takes_bytes = False
    with serve(model) as address:
        client = ModelClient(address, contract)
        client.signature(timeout=5)
        model.refusals = refusals
        if answered:
            client.predict(PHOTO, timeout=5)
        else:
            with pytest.raises(grpc.RpcError) as error:
                client.predict(PHOTO, timeout=5)
            assert error.value.code() == grpc.StatusCode.UNAVAILABLE
    assert len(model.requests) == answered
    assert model.refusals == 0


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.ABORTED]
)
def test_what_else_fails_fails_at_once(fake_model, contract, code):
    model, address = fake_model
    model.failure = code
    with pytest.raises(grpc.RpcError) as error:
        ModelClient(address, contract).describe(timeout=5)
    assert error.value.code() == code


def test_calls_are_spread_over_all_replicas(contract):
    models = [FakeModel() for _ in range(3)]
    with ExitStack() as stack:
        addresses = [stack.enter_context(serve(model)) for model in models]
        client = ModelClient(f"ipv4:///{','.join(addresses)}", contract)
        client.predict(PICTURES, timeout=5)
        deadline = Deadline.after(5)
        while not all(model.requests for model in models):  # connecting takes its time
            client.predict(PICTURES, timeout=deadline.remaining())
        before = [len(model.requests) for model in models]
        for _ in range(30):
            client.predict(PICTURES, timeout=5)
        shares = [len(m.requests) - n for m, n in zip(models, before, strict=True)]
    assert shares == [10, 10, 10]


@pytest.fixture
def wired(contract):
    """A model of photos behind a wire, and a client that has used it: (wire, client)."""
    with serve(FakeModel(side=299)) as address, TcpProxy(int(address.split(":")[1])) as wire:
        client = ModelClient(wire.address, contract)
        client.predict(PHOTO, timeout=5)
        yield wire, client


def test_a_connection_cut_in_the_middle_of_a_call_costs_no_answer(wired):
    wire, client = wired
    wire.delay = 0.2
    threading.Timer(0.1, wire.cut).start()
    begun = time.monotonic()
    client.predict(PHOTO, timeout=5)
    assert time.monotonic() - begun > 0.25  # it was not over before the cut


def test_a_slow_wire_costs_time_only(wired):
    wire, client = wired
    wire.delay = 0.2
    client.predict(PHOTO, timeout=5)
    with pytest.raises(grpc.RpcError) as error:
        client.predict(PHOTO, timeout=0.1)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_silent_server_is_left_after_the_timeout_and_found_again(wired):
    wire, client = wired
    wire.black_hole()
    begun = time.monotonic()
    with pytest.raises(grpc.RpcError) as error:
        client.predict(PHOTO, timeout=0.5)
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - begun < 1
    wire.mend()
    client.predict(PHOTO, timeout=5)


def test_a_silent_connection_is_given_up_by_itself(contract, monkeypatch):
    """With keepalive at a tenth of its times, and a timeout far beyond: pings found it out.

    The pictures are small: large ones fill the socket, which the system notices without any ping.
    """
    for option, value in CHANNEL_OPTIONS.items():
        if "keepalive" in option or "ping" in option:
            monkeypatch.setitem(CHANNEL_OPTIONS, option, value // 10)
    with serve(FakeModel()) as address, TcpProxy(int(address.split(":")[1])) as wire:
        client = ModelClient(wire.address, contract)
        client.predict(PICTURES, timeout=5)
        wire.black_hole()
        begun = time.monotonic()
        client.predict(PICTURES, timeout=30)
        assert 0.2 < time.monotonic() - begun < 3


def test_after_another_model_came_in_its_place_its_names_are_asked_for_anew(fake_model, contract):
    model, address = fake_model
    model.definition = signature(inputs={"old": (-1, 4, 6, 3)})
    client = ModelClient(address, contract)
    client.signature(timeout=5)
    model.definition = signature()
    with pytest.raises(grpc.RpcError) as error:
        client.predict(PICTURES, timeout=5)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    client.predict(PICTURES, timeout=5)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (signature(inputs={"a": (-1, 4, 6, 3), "b": (-1, 2)}), "one input"),
        (signature(inputs={"photo": (-1, 4, 6, 1)}), "one input of float or uint8 pictures"),
        (signature(inputs={"photo": (-1, 12)}), "one input of float or uint8 pictures"),
        (signature(dtype=types_pb2.DT_INT32), "one input of float or uint8 pictures"),
        (signature(dtype=types_pb2.DT_UINT8), "3 labels want one output"),
        (signature(outputs={"kinds": (-1, 4)}), "3 labels want one output"),
        (signature(outputs={"a": (-1, 3), "b": (-1, 3)}), "3 labels want one output"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(definition, words, contract):
    with pytest.raises(ModelMismatchError, match=words):
        choose_signature({"serving_default": definition}, contract)


def test_further_outputs_do_not_matter(contract):
    definition = signature(outputs={"kinds": (-1, 3), "embedding": (-1, 128)})
    assert choose_signature({"serving_default": definition}, contract).output_name == "kinds"


def test_a_missing_signature_is_named(contract):
    with pytest.raises(ModelMismatchError, match=r"no signature 'serving_default', only \['other'"):
        choose_signature({"other": signature()}, contract)


@pytest.mark.parametrize(
    ("version", "number", "label"), [("", 0, ""), ("3", 3, ""), ("canary", 0, "canary")]
)
def test_a_version_is_a_number_or_a_label(fake_model, contract, version, number, label):
    model, address = fake_model
    ModelClient(address, contract, version=version).predict(PICTURES, timeout=5)
    spec = model.requests[0].model_spec
    assert (spec.version.value, spec.version_label) == (number, label)


def test_metadata_is_asked_for_and_sent_with_every_call(fake_model, contract):
    model, address = fake_model
    numbers = map(str, range(9))
    client = ModelClient(address, contract, metadata=lambda: (("x-number", next(numbers)),))
    client.describe(timeout=5)
    assert model.metadata["x-number"] == "0"
    client.predict(PICTURES, timeout=5)
    assert model.metadata["x-number"] == "1"
