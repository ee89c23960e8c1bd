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

OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_connection_age_ms", 1000),  # 15,000 in the manifest
    ("grpc.max_connection_age_grace_ms", 10_000),
]
IMAGE = np.zeros((1, 4, 6, 3), np.uint8)


class Pod(FakeModel):
    """A model server on its own loopback address, which counts its answers."""

    def __init__(self, address):
        super().__init__()
        self.answered = 0
        self.server = grpc.server(ThreadPoolExecutor(4), options=OPTIONS)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self.server)
        self.server.add_insecure_port(address)
        self.server.start()

    def Predict(self, request, context):
        self.answered += 1  # calls come one after the other
        return super().Predict(request, context)


class Namespace:
    """The name of a model, the pods behind it, and a client that calls all the time."""

    def __init__(self, contract, stack):
        self.names, self.pods, self.failures = [], [], []
        self._port, self._stack = free_port(), stack
        dns = stack.enter_context(dns_server.serve(self.names))
        target = f"dns://127.0.0.1:{dns}/model.clothing.svc:{self._port}"
        self._client, self._over = ModelClient(LazyChannel(target), contract), threading.Event()

    def start_pods(self, count):
        for _ in range(count):
            address = f"127.0.0.{len(self.pods) + 1}"
            pod = Pod(f"{address}:{self._port}")
            self._stack.callback(lambda pod=pod: pod.server.stop(None).wait())
            self.pods.append(pod)
            self.names.append(address)

    @contextmanager
    def load(self):
        """Call from a thread until the block ends, at first the only pod."""
        self.start_pods(1)
        with ThreadPoolExecutor(1) as pool:
            calls = pool.submit(self._call)
            try:
                wait_until(lambda: self.pods[0].answered > 20, timeout=20, what="first answers")
                yield
            finally:
                self._over.set()
            calls.result()

    def _call(self):
        while not self._over.wait(0.01):
            try:
                predict(self._client, IMAGE, timeout=3)
            except grpc.RpcError as error:
                self.failures.append(error.code())

    def shares(self, seconds):
        """Return each pod's share of the answers, measured for so long."""
        before = [pod.answered for pod in self.pods]
        time.sleep(seconds)
        gained = [pod.answered - count for pod, count in zip(self.pods, before, strict=True)]
        return [count / max(1, sum(gained)) for count in gained]


@pytest.fixture
def namespace(contract_file):
    with ExitStack() as stack:
        yield Namespace(Contract.read(contract_file), stack)


def test_pods_born_later_get_their_share(namespace):
    with namespace.load():
        namespace.start_pods(2)
        third = [pytest.approx(1 / 3, abs=0.1)] * 3
        wait_until(lambda: namespace.shares(1) == third, timeout=30, what="a third for each")
    assert namespace.failures == []


def test_pod_that_ends_is_left_before_it_is_killed(namespace):
    """A rollout: the new pod is ready, the old one leaves the name, waits (preStop), is killed."""
    with namespace.load():
        namespace.start_pods(1)
        old, new = namespace.pods
        namespace.names.pop(0)
        wait_until(lambda: namespace.shares(0.5) == [0, 1], timeout=20, what="all to leave")
        old.server.stop(None).wait()
        time.sleep(2)
        count = new.answered
    assert namespace.failures == []
    assert count > 50
