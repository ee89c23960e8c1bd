"""The gateway as it is deployed: a gunicorn process that starts fast, stays small, and ends."""

import time

import pytest

from tutorial import TutorialError, services
from tutorial.processes import port_open, wait_until


def test_each_process_stays_below_80_megabytes(start_gateway):
    gateway = start_gateway()
    assert services.http_status(gateway.address) == 200
    processes = gateway.processes()
    assert len(processes) >= 2  # gunicorn's arbiter and its worker
    assert max(process.memory_info().rss for process in processes) <= 80 * 2**20


@pytest.mark.serial
def test_gateway_is_ready_within_a_second(start_gateway):
    """The best of a few starts, since the machine may be busy with something else."""
    took = []
    while len(took) < 5 and min(took, default=9) > 1:
        begun = time.monotonic()
        gateway = start_gateway()
        took.append(time.monotonic() - begun)
        gateway.server.stop()
    print("seconds to be ready:", took)
    assert min(took) <= 1


def test_gateway_loaded_before_the_fork_answers_after_it(start_gateway, monkeypatch):
    """gRPC does not survive a fork: nothing may be opened before gunicorn has made its workers."""
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--preload --workers=2")
    gateway = start_gateway()
    assert len(gateway.processes()) >= 3
    assert [gateway.predict().status_code for _ in range(8)] == [200] * 8


def test_gateway_ends_at_term(start_gateway):
    gateway = start_gateway()
    gateway.processes()[0].terminate()
    wait_until(lambda: not gateway.server.running, timeout=10, what="gunicorn to end")
    assert gateway.server.exit_code == 0
    assert not port_open(gateway.port)


def test_gateway_says_that_its_second_port_is_taken(start_gateway, picture_server):
    taken = picture_server[1].removeprefix("http://")
    with pytest.raises(TutorialError, match=f"GATEWAY_ADMIN_BIND: cannot listen on {taken}"):
        start_gateway(admin_bind=taken)
