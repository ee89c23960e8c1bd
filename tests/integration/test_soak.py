"""Good and bad requests mixed for a while: what the gateway holds on to must not grow.

20 seconds by default, 30 minutes with FAULTS=full (`make soak`). The passing figure is the same:
under 5 MB of resident memory in 10 minutes, or in whatever time there is.
"""

import itertools
import os
import socket
import time

import psutil
import requests

from tests.integration.test_gateway_process import processes_of
from tests.pictures import png, upload
from tutorial import services
from tutorial.processes import free_port

FULL = os.environ.get("FAULTS") == "full"
WARM_UP, SECONDS = (120, 1800) if FULL else (8, 12)
TEN_MINUTES = 600


def good(port: int) -> None:
    answer = requests.post(f"http://127.0.0.1:{port}/predict", files={"file": png()}, timeout=30)
    assert answer.status_code == 200


def no_picture(port: int) -> None:
    files = {"file": os.urandom(100_000)}
    answer = requests.post(f"http://127.0.0.1:{port}/predict", files=files, timeout=30)
    assert answer.status_code == 400


def blocked(port: int) -> None:
    body = {"url": "http://169.254.169.254/"}
    answer = requests.post(f"http://127.0.0.1:{port}/predict", json=body, timeout=30)
    assert answer.status_code == 400


def nowhere(port: int) -> None:
    path = f"/{os.urandom(8).hex()}"
    assert requests.get(f"http://127.0.0.1:{port}{path}", timeout=30).status_code == 404


def leaves_early(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(upload(png())[:-20])


def speaks_no_http(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as caller:
        caller.sendall(os.urandom(100) + b"\r\n\r\n")


CALLERS = (good, no_picture, blocked, nowhere, leaves_early, speaks_no_http)


def test_it_holds_on_to_nothing(contract_file, fake_model):
    port = free_port()
    with services.start_gateway(
        port,
        model_address=fake_model[1],
        contract=contract_file,
        log_level="warning",
        threads=6,  # all of which are there after the warm-up: the pool makes them one by one
    ) as server:
        worker = psutil.Process(processes_of(server)[-1])
        begun, callers, seen = time.monotonic(), itertools.cycle(CALLERS), []
        while (passed := time.monotonic() - begun) < WARM_UP + SECONDS:
            for caller in itertools.islice(callers, 10 * len(CALLERS)):
                caller(port)
                time.sleep(0.005)  # leave something to others on this machine
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
