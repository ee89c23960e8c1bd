"""Test the load generator against small servers of this process."""

import itertools
import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tutorial import TutorialError
from tutorial.flaky import FlakyServer
from tutorial.load import Result, measure, schedule


class Site(ThreadingHTTPServer):
    """An HTTP server: its address, and the requests that it got."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 100

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}/predict"
        self.bodies: list[bytes] = []
        self.connections = 0


@contextmanager
def serving(*, took: float = 0, keeps: bool = True, statuses: tuple = (200,)) -> Iterator[Site]:
    """A server that handles one request at a time, each for `took` seconds."""
    one_at_a_time, status = threading.Lock(), itertools.cycle(statuses)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self):
            super().setup()
            site.connections += 1

        def do_POST(self):
            site.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            with one_at_a_time:
                time.sleep(took)
                self.send_response(next(status))
            self.send_header("Content-Length", "2")
            if not keeps:
                self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with Site(Handler) as site:
        threading.Thread(target=site.serve_forever, args=(0.05,), daemon=True).start()
        yield site
        site.shutdown()


def test_measure_keeps_connections_open_and_sends_the_body_unchanged():
    with serving(took=0.01) as site:
        result = measure(site.url, b"\0picture\r\n\r\n", callers=3, seconds=0.3)
    assert site.connections == 3
    assert set(site.bodies) == {b"\0picture\r\n\r\n"}
    assert len(result.answers) == len(site.bodies) == len(result.good)
    assert 0 < result.cpu_seconds < 0.3


def test_measure_counts_the_queue_in_an_open_loop_only():
    with serving(took=0.05) as site:  # 20 a second
        closed = measure(site.url, b"", callers=1, seconds=0.5)
        open_ = measure(site.url, b"", rate=40, arrivals="even", seconds=0.5)
    assert len(open_.answers) == 20  # as many as were due, although half of them came late
    assert closed.percentile(50) < 0.2 < 0.4 < open_.percentile(95)
    assert open_.offered == 40
    assert open_.answered < 21


def test_measure_sends_to_addresses_in_turn():
    with serving() as one, serving() as other:
        measure([one.url, other.url], b"", rate=60, arrivals="even", seconds=0.2)
        assert len(one.bodies) == len(other.bodies) == 6


def test_measure_opens_a_new_connection_after_the_server_closes_one():
    with serving(keeps=False) as site:
        result = measure(site.url, b"", callers=1, seconds=0.2)
    assert len(result.good) == len(result.answers) == site.connections > 1


def test_result_answered_counts_only_good_answers():
    with serving(statuses=(200, 503)) as site:
        result = measure(site.url, b"", rate=50, arrivals="even", seconds=0.2)
    assert Counter(status for *_, status in result.answers) == {200: 5, 503: 5}
    assert result.answered == pytest.approx(25, rel=0.2)


def test_measure_gives_up_after_the_timeout():
    with serving(took=0.5) as site:
        result = measure(site.url, b"", rate=10, arrivals="even", seconds=0.2, timeout=0.8)
    assert [status for *_, status in result.answers] == [200, 0]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/", "localhost:8500"])  # 9: "discard"
def test_measure_names_an_address_where_nothing_answers(url):
    with pytest.raises(TutorialError, match=f"no server answers at {url}: is it running"):
        measure(url, b"", callers=1, seconds=0.3)


def test_measure_may_have_no_request_at_all():
    result = measure("http://127.0.0.1:9/", b"", rate=0.01, seconds=0.05)
    assert result.answers == []
    assert result.answered == 0


def test_measure_over_grpc_names_status_codes():
    server, request = FlakyServer(), PredictRequest().SerializeToString()
    server.refusals = 1
    address = f"grpc://127.0.0.1:{server.port}"
    result = measure(address, request, rate=20, arrivals="even", seconds=0.2)
    server.stop()
    assert server.calls == 4
    assert Counter(status for *_, status in result.answers) == {"UNAVAILABLE": 1, 200: 3}


def test_schedule_is_the_same_for_the_same_seed():
    due, same, other = (schedule(100, 50, "poisson", seed) for seed in (1, 1, 2))
    assert due == same != other
    assert due == sorted(due)
    assert due[-1] < 50
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert statistics.mean(gaps) == pytest.approx(0.01, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.1)  # as an exponential one has it


def test_result_percentile_ignores_bad_answers():
    answers = [(0, took / 100, 200) for took in range(100, 0, -1)] + [(0, 9, 503)]
    result = Result(1, 0, answers)
    assert [result.percentile(percent) for percent in (0, 50, 99, 100)] == [0.01, 0.5, 0.99, 1]
    assert math.isnan(Result(1, 0, [(0, 9, 503)]).percentile(50))
