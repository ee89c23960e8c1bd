"""What the model's headless Service promises, with a name server and several loopback addresses.

The client is the gateway's own; the pods are gRPC servers with the manifest's channel arguments,
their connections' age shortened so that a test does not take minutes.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import prediction_service_pb2_grpc

from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.model_client import ModelClient, predict
from tests import dns_server
from tests.fake_model import FakeModel
from tutorial.processes import free_port, wait_until

AGE = 1.0  # seconds; 15 in the manifest
IMAGE = np.zeros((1, 4, 6, 3), np.uint8)


class CountingModel(FakeModel):
    """Keeps count of its answers; calls come one after the other."""

    answered = 0

    def Predict(self, request, context):
        self.answered += 1
        return super().Predict(request, context)


class Pod:
    """A model server on a loopback address of its own."""

    def __init__(self, address, port, age):
        self.model = CountingModel()
        options = [("grpc.so_reuseport", 0)]
        if age:
            options += [("grpc.max_connection_age_ms", int(1000 * age))]
            options += [("grpc.max_connection_age_grace_ms", 10_000)]
        self._server = grpc.server(ThreadPoolExecutor(4), options=options)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            self.model, self._server
        )
        self._server.add_insecure_port(f"{address}:{port}")
        self._server.start()

    @property
    def answered(self):
        return self.model.answered

    def kill(self):
        self._server.stop(None).wait()


class Load:
    """Calls from a thread, one after the other, until the block ends."""

    def __init__(self, client):
        self.failures = []
        self._client, self._over = client, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(0.01):
            try:
                predict(self._client, IMAGE, timeout=3)
            except grpc.RpcError as error:
                self.failures.append(error.code())


@contextmanager
def namespace(contract_file, age):
    """(names, a function that starts a pod, a gateway's client for the name)."""
    port, names = free_port(), dns_server.Names()
    with ExitStack() as stack:
        dns = stack.enter_context(dns_server.serve(names))
        pods = []

        def start(address):
            pods.append(Pod(address, port, age))
            stack.callback(pods[-1].kill)
            return pods[-1]

        target = f"dns://127.0.0.1:{dns}/model.clothing.svc:{port}"
        yield names, start, ModelClient(LazyChannel(target), Contract.read(contract_file))


def shares(pods, seconds):
    before = [pod.answered for pod in pods]
    time.sleep(seconds)
    gained = [pod.answered - count for pod, count in zip(pods, before, strict=True)]
    return [count / max(1, sum(gained)) for count in gained]


def test_pods_born_later_get_their_share(contract_file):
    with namespace(contract_file, AGE) as (names, start, client):
        pods = [start("127.0.0.1")]
        names.addresses = ["127.0.0.1"]
        with Load(client) as load:
            wait_until(lambda: pods[0].answered > 20, timeout=20, what="the first pod's answers")
            pods += [start("127.0.0.2"), start("127.0.0.3")]
            names.addresses = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
            third = [pytest.approx(1 / 3, abs=0.1)] * 3
            wait_until(lambda: shares(pods, 1) == third, timeout=30, what="a third for each")
        assert load.failures == []


def test_they_would_wait_for_it_in_vain_if_connections_never_ended(contract_file):
    with namespace(contract_file, None) as (names, start, client):
        pods = [start("127.0.0.1")]
        names.addresses = ["127.0.0.1"]
        with Load(client):
            wait_until(lambda: pods[0].answered > 20, timeout=20, what="the first pod's answers")
            pods.append(start("127.0.0.2"))
            names.addresses = ["127.0.0.1", "127.0.0.2"]
            assert shares(pods, 7) == [1, 0]


def test_a_pod_that_ends_is_left_before_it_is_killed(contract_file):
    """A rollout: the new pod is ready, the old one leaves the name, waits (preStop), is killed."""
    with namespace(contract_file, AGE) as (names, start, client):
        old = start("127.0.0.1")
        names.addresses = ["127.0.0.1"]
        with Load(client) as load:
            wait_until(lambda: old.answered > 20, timeout=20, what="the old pod's answers")
            new = start("127.0.0.2")
            names.addresses = ["127.0.0.2"]
            wait_until(lambda: shares([old, new], 0.5) == [0, 1], timeout=20, what="all to leave")
            old.kill()
            time.sleep(2)
            count = new.answered
        assert load.failures == []
        assert count > 50
