"""Good and bad requests mixed for a while: what the gateway holds on to must not grow.

20 seconds by default, 30 minutes with FAULTS=full (`make soak`). The passing figure is the same:
under 5 MB of resident memory in 10 minutes, or in whatever time there is.
"""

import os
import socket
import time

import requests

from tests.gateway_process import GatewayProcess
from tests.pictures import png, upload

FULL = os.environ.get("FAULTS") == "full"
WARM_UP, SECONDS = (120, 1800) if FULL else (8, 12)
TEN_MINUTES = 600


def mixed_requests(gateway: GatewayProcess) -> None:
    """Send one request of each kind: good, no picture, blocked, not found, broken off, not HTTP."""
    assert gateway.predict().status_code == 200
    assert gateway.predict(os.urandom(100_000)).status_code == 400
    blocked = {"url": "http://169.254.169.254/"}
    assert gateway.predict(files=None, json=blocked).status_code == 400
    nowhere = f"{gateway.address}/{os.urandom(8).hex()}"
    assert requests.get(nowhere, timeout=30).status_code == 404
    for data in (upload(png())[:-20], os.urandom(100) + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.sendall(data)
    time.sleep(0.03)  # leave something to others on this machine


def test_gateway_keeps_no_memory_files_or_threads(start_gateway):
    # All threads are there after the warm-up: the pool makes them one by one.
    gateway = start_gateway(log_level="warning", threads=6)
    worker = gateway.processes()[-1]
    begun, seen = time.monotonic(), []
    while (passed := time.monotonic() - begun) < WARM_UP + SECONDS:
        for _ in range(10):
            mixed_requests(gateway)
        if passed > WARM_UP:
            megabytes = worker.memory_info().rss / 2**20
            seen.append((passed, megabytes, worker.num_fds(), worker.num_threads()))
    (begun, first, *_), (ended, last, *_) = seen[0], seen[-1]
    growth = (last - first) / max(1, (ended - begun) / TEN_MINUTES)
    files, threads = (sorted(numbers) for numbers in list(zip(*seen, strict=True))[2:])
    print(f"{first:.1f} to {last:.1f} MB, files {files[0]}-{files[-1]}, threads {threads[-1]}")
    assert growth < 5
    assert files[-1] - files[0] <= 4  # a connection or two that are just closing
    assert threads[-1] - threads[0] <= 2  # gRPC's own come and go
