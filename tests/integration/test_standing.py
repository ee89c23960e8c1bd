"""The deployed gateway asked too much, by slow clients and about slow origins, and told to end.

The passing figures are for the durations of FAULTS=full (`make test-faults`); by default the tests
are shorter, and the figures the same.
"""

import http.client
import json
import os
import re
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import requests

from tests.integration.test_gateway_process import processes_of
from tests.model_process import ModelProcess
from tests.pictures import png, upload
from tutorial import services
from tutorial.load import Result, form, measure
from tutorial.processes import free_port, wait_until

FULL = os.environ.get("FAULTS") == "full"
EIGHT = 8


class Gateway:
    """A running gateway: its two ports and its server."""

    def __init__(self, contract, **settings) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.server = services.start_gateway(
            self.port, admin_port=self.admin_port, contract=contract, **settings
        )
        self.address = f"http://127.0.0.1:{self.port}"

    def admin(self, path: str) -> tuple[int, float]:
        """Status and seconds of a GET on the second port; fails where it takes a second."""
        begun = time.monotonic()
        answer = requests.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=1)
        return answer.status_code, time.monotonic() - begun

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels as in Prometheus; 0 where absent."""
        text = requests.get(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=1).text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def log(self) -> list[dict]:
        return [json.loads(line) for line in self.server.log.read_text().splitlines()]


@pytest.fixture
def start(contract_file) -> Iterator:
    """A function that starts a model with this delay in seconds, and a gateway in front of it."""
    gateways, models = [], []

    def start(delay: float = 0, **settings) -> Gateway:
        models.append(ModelProcess(delay=delay))
        name = f"gateway {len(gateways)}"
        gateways.append(Gateway(contract_file, model_port=models[-1].port, name=name, **settings))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.server.stop()
    for model in models:
        model.kill()


def run_load(gateway: Gateway, **options: float) -> Result:
    """What callers meet who send a small picture again and again."""
    body, content_type = form(png())
    address = f"{gateway.address}/predict"
    return measure(address, body, content_type=content_type, arrivals="even", **options)


@contextmanager
def watching(gateway: Gateway) -> Iterator[list[tuple[int, float]]]:
    """Ask /livez all the time; gives the list of (status, seconds), and checks it at the end."""
    seen, over = [], threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            seen.append(gateway.admin("/livez"))

    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(watch)
        try:
            yield seen
        finally:
            over.set()
            watched.result()
    assert {status for status, _ in seen} == {200}
    assert max(seconds for _, seconds in seen) < 1


def goodput(result: Result) -> float:
    """Good answers in a second, from the first second's end on: until then it fills up."""
    ends = [due + took for due, took, status in result.answers if status == 200]
    return sum(1 < end <= result.seconds for end in ends) / (result.seconds - 1)


def test_twice_its_capacity_costs_no_goodput(start):
    gateway = start(delay=0.1)  # the model answers 4 at once: 40 a second
    seconds = 60 if FULL else 6
    peak = goodput(run_load(gateway, seconds=4, callers=16))
    with watching(gateway):
        result = run_load(gateway, seconds=seconds, rate=2 * peak)
    good = goodput(result)
    refused = sorted(took for _, took, status in result.answers if status == 503)
    slow = statistics.quantiles(refused, n=20)[-1]
    print(
        f"peak {peak:.1f}/s, goodput {good:.1f}/s; {len(refused)} refused,"
        f" 95% of them within {slow * 1000:.0f} ms, all within {refused[-1] * 1000:.0f} ms"
    )
    assert {status for _, _, status in result.answers} == {200, 503}
    assert good >= 0.9 * peak
    assert slow < 0.05
    assert gateway.metric('gateway_rejected_total{reason="busy"}') == len(refused)


def test_an_upload_that_is_refused_gets_its_answer(start):
    gateway = start(delay=1, threads=3)
    with ThreadPoolExecutor(EIGHT) as callers:
        answers = callers.map(
            lambda _: requests.post(
                f"{gateway.address}/predict", files={"file": png() + bytes(3 * 2**20)}, timeout=30
            ),
            range(EIGHT),
        )
        statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}


def slow_header(port: int) -> socket.socket:
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(b"POST /predict HTTP/1.1\r\nHost: gateway\r\n")
    return slow


def slow_body(port: int) -> socket.socket:
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(upload(png())[:-20])
    return slow


@pytest.mark.parametrize("begin", [slow_header, slow_body])
def test_slow_clients_are_let_go_in_time(start, begin):
    gateway = start(threads=EIGHT + 2, request_timeout=2, model_timeout=2)
    over = threading.Event()

    def drip(slow: socket.socket) -> tuple[float, bytes]:
        """Send a byte now and then; how long it was listened to, and what came back."""
        begun = time.monotonic()
        slow.settimeout(0.3)
        while time.monotonic() - begun < 15 and not over.is_set():
            try:
                return time.monotonic() - begun, slow.recv(10_000)
            except TimeoutError:
                slow.sendall(b"x")
            except ConnectionResetError:
                return time.monotonic() - begun, b""
        raise AssertionError("still listened to")

    with watching(gateway), ThreadPoolExecutor(EIGHT) as clients:
        ends = list(clients.map(drip, [begin(gateway.port) for _ in range(EIGHT)]))
    assert max(seconds for seconds, _ in ends) < 5
    if begin is slow_body:
        assert {answer[:12] for _, answer in ends} == {b"HTTP/1.1 408"}
        wait_until(
            lambda: gateway.metric('gateway_rejected_total{reason="slow-request"}') == EIGHT,
            timeout=5,
            what="all eight to be counted",
        )
    assert requests.post(
        f"{gateway.address}/predict", files={"file": png()}, timeout=5
    ).status_code in (200, 503)


def test_one_who_leaves_a_connection_open_holds_up_nobody(start):
    gateway = start()
    left_open = []
    begun = time.monotonic()
    for _ in range(EIGHT):
        connection = socket.create_connection(("127.0.0.1", gateway.port))
        connection.sendall(b"GET /nowhere HTTP/1.0\r\n\r\n")
        left_open.append(connection)
    time.sleep(0.2)
    assert requests.get(gateway.address, timeout=5).status_code == 200
    assert time.monotonic() - begun < 2
    for connection in left_open:
        connection.close()


def test_more_callers_than_threads_take_turns(start):
    gateway = start(threads=3)
    end = time.monotonic() + 2

    def ask_on_and_on(_: int) -> int:
        """Ask over one connection, each time as soon as there is an answer; how often."""
        kept = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        count = 0
        while time.monotonic() < end:
            kept.request("GET", "/nowhere")
            assert kept.getresponse().read()
            count += 1
        kept.close()
        return count

    with ThreadPoolExecutor(EIGHT) as callers:
        counts = list(callers.map(ask_on_and_on, range(EIGHT)))
    print("answers:", *counts)
    assert min(counts) > max(counts) / 4


def test_requests_that_come_together_are_answered_one_by_one(start):
    gateway = start()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as connection:
        connection.sendall(
            b"".join(
                b"GET /nowhere HTTP/1.1\r\nHost: gateway\r\nX-Request-ID: %d\r\n\r\n" % number
                for number in range(EIGHT)
            )
        )
        connection.shutdown(socket.SHUT_WR)
        answers = b"".join(iter(lambda: connection.recv(10_000), b""))
    assert answers.count(b"HTTP/1.1 404") == EIGHT
    ids = re.findall(rb"^X-Request-ID: (\d)", answers, re.MULTILINE)
    assert ids == [b"%d" % number for number in range(EIGHT)]


def test_ended_after_draining_it_breaks_off_nothing(start):
    gateway = start(delay=0.5)
    arbiter, *_ = processes_of(gateway.server)
    files = {"file": png()}
    with ThreadPoolExecutor(EIGHT) as clients:
        under_way = [
            clients.submit(requests.post, f"{gateway.address}/predict", files=files, timeout=30)
            for _ in range(EIGHT)
        ]
        wait_until(
            lambda: gateway.metric("gateway_in_flight") == EIGHT,
            timeout=5,
            interval=0.02,
            what="eight requests to be under way",
        )
        os.kill(arbiter, signal.SIGTERM)  # no new ones come: that is what draining was for
        wait_until(
            lambda: gateway.admin("/readyz")[0] == 503,
            timeout=1,
            interval=0.02,
            what="the gateway to say that it ends",
        )
        assert gateway.admin("/livez")[0] == 200
        assert [answer.result().status_code for answer in under_way] == [200] * EIGHT
    wait_until(lambda: not gateway.server.running, timeout=10, what="the gateway to end")
    assert gateway.server.exit_code == 0


def test_no_answer_goes_to_anothers_request(start):
    gateway = start()
    colours = [(i, 255 - i, (7 * i) % 256) for i in range(1, 241)]

    def ask(colour: tuple[int, int, int]) -> None:
        ours = f"{colour[0]}.of.240"
        answer = requests.post(
            f"{gateway.address}/predict",
            files={"file": png(colour)},
            headers={"X-Request-ID": ours},
            timeout=30,
        )
        assert [round(score) for score in answer.json().values()] == list(colour)
        assert answer.headers["X-Request-ID"] == ours

    with ThreadPoolExecutor(EIGHT) as clients:
        list(clients.map(ask, colours))
    logged = [line for line in gateway.log() if line.get("path") == "/predict"]
    assert {line["request_id"] for line in logged} == {f"{c[0]}.of.240" for c in colours}
    assert len(logged) == len(colours)


def test_several_gateways_on_one_machine_share_one_model(contract_file):
    body, content_type = form(png())
    with ModelProcess() as model:
        gateways = services.start_gateways(2, model_port=model.port, contract=contract_file)
        addresses = [f"{address}/predict" for address in gateways]
        load = measure(addresses, body, content_type=content_type, callers=2, seconds=0.5)
        for gateway in gateways.values():
            assert gateway.cpu_seconds() > 0
            gateway.stop()
    assert {status for _, _, status in load.answers} == {200}
    counts = [server.log.read_text().count('"status": 200') for server in gateways.values()]
    assert sum(counts) == len(load.answers)
    assert abs(counts[0] - counts[1]) <= 1
