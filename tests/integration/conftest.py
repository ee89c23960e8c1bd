"""Give integration tests the real TensorFlow, and each process its own ports and logs.

Also the fixtures that several of them share.
"""

import os
import random
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle

import pytest

from tests.gateway_process import GatewayProcess
from tests.model_process import ModelProcess
from tutorial import processes, services

PORTS = range(20_000, 32_000)  # below those that the system itself gives to clients and port 0


def own_ports(worker: int, workers: int) -> Iterator[int]:
    """Yield ports from this worker's share of PORTS, from a random start, in a circle."""
    share = PORTS[worker::workers]
    start = random.randrange(len(share))
    return cycle([*share[start:], *share[:start]])


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, and which no other worker is given."""
    found: list[int] = []
    while len(found) < count:
        try:
            socket.create_server(("127.0.0.1", port := next(_ports))).close()
        except OSError:
            continue
        found.append(port)
    return found


_worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
_ports = own_ports(int(_worker[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
processes.free_ports = services.free_ports = free_ports
services.LOGS = services.LOGS / _worker
os.environ["TUTORIAL_LOGS"] = str(services.LOGS)  # for lessons and programs that tests start

sys.path[:] = [path for path in sys.path if path != str(services.STUBS)]


@pytest.fixture
def start_gateway(contract_file, fake_model):
    """A function that starts a gateway with these settings; by default before the fake model."""
    with ExitStack() as stack:

        def start(**settings: object) -> GatewayProcess:
            defaults = {"model_address": fake_model[1], "contract": contract_file}
            gateway = GatewayProcess(**defaults | settings)
            stack.callback(gateway.server.stop)
            return gateway

        yield start


@pytest.fixture
def start_chain(start_gateway):
    """A function that starts fake models and a gateway before them: (the gateway, the models)."""
    with ExitStack() as stack:

        def start(
            replicas: int = 1, *, delay: float = 0, **settings: object
        ) -> tuple[GatewayProcess, list[ModelProcess]]:
            models = [ModelProcess(delay=delay) for _ in range(replicas)]
            for model in models:
                stack.callback(model.kill)
            addresses = ",".join(f"127.0.0.1:{model.port}" for model in models)
            return start_gateway(model_address=f"ipv4:///{addresses}", **settings), models

        yield start


@pytest.fixture
def fake_docker(tmp_path, monkeypatch) -> None:
    """tests/fake_docker.py as the command `docker`."""
    command = tmp_path / "docker"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fake_docker "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(services.ROOT))
