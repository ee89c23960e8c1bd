"""gateway/operations/concurrency_limit: more than the limit is refused at once. It adapts."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from flask import Flask, request

from gateway.errors import BusyError
from gateway.operations.concurrency_limit import ConcurrencyLimit


def test_limit_refuses_further_requests_until_an_answer_has_ended():
    app = Flask(__name__, static_folder=Path(__file__).parent, static_url_path="/static")
    hold, entered = threading.Event(), threading.Semaphore(0)
    limit = ConcurrencyLimit(app, most=2, patience=3)

    @app.errorhandler(BusyError)
    def busy(_):
        return "", 503

    @app.get("/")
    def held():
        entered.release()
        hold.wait(5)
        return "done"

    def ask(buffered=True):
        return app.test_client().get("/", buffered=buffered)

    with ThreadPoolExecutor() as clients:
        answers = [clients.submit(ask) for _ in range(2)]
        assert entered.acquire(timeout=5) and entered.acquire(timeout=5)
        assert limit.in_flight == 2
        assert ask().status_code == 503
        assert limit.in_flight == 2  # a refused request was never in flight
        hold.set()
        assert [answer.result().status_code for answer in answers] == [200, 200]
    assert limit.in_flight == 0
    file = app.test_client().get("/static/test_contract.py", buffered=True)
    assert file.status_code == 200
    assert limit.in_flight == 0
    unread = ask(buffered=False)
    assert limit.in_flight == 1  # the client has not read its answer yet
    unread.close()
    assert limit.in_flight == 0


class Service:
    """An app whose requests end as the test says, and its limit of at most `most` at once."""

    def __init__(self, most: int):
        self.app = Flask(__name__)
        self.limit = ConcurrencyLimit(self.app, most=most, patience=3)
        self.app.add_url_rule("/", view_func=self.end)

    def end(self):
        request.environ |= {"gateway.reason": self.reason, "gateway.stages": self.stages}
        return "", 400 if self.reason else 200

    def ask(self, times: int, *, reason: str = "", **stages: float) -> float:
        """Let requests end in this way, after these seconds; return the limit then."""
        self.reason, self.stages = reason, stages
        for _ in range(times):
            self.app.test_client().get("/", buffered=True)
        return self.limit.limit


def test_limit_falls_when_callers_give_up_and_rises_with_answers():
    service = Service(most=10)
    assert service.ask(5, reason="bad-picture", decode=1) == 10  # says nothing about the queue
    assert service.ask(5, reason="busy") == 10
    assert service.ask(5, reason="caller-left", fetch=1) == 10
    assert service.ask(5, reason="out-of-time", decode=0.001) == 10  # it arrived too late
    assert 5 < service.ask(5, reason="caller-left", decode=0.1, model=0.9) < 7
    assert service.ask(30, reason="out-of-time", decode=1) == 2
    assert service.ask(9, fetch=0, decode=0, model=0.9) == 2  # just before callers give up
    assert service.ask(9) == 2  # a page, or a check
    assert 5 < service.ask(50, fetch=4, decode=0.1, model=0.1) < 10
    assert service.ask(200, fetch=4, decode=0.1, model=0.1) == 10


def test_limit_is_not_raised_by_a_caller_who_gives_up():
    service = Service(most=1)
    assert service.ask(1, reason="caller-left", decode=1) == 1


@pytest.mark.parametrize(("seconds", "lets_in"), [(0.2, 78), (0.8, 21), (1.6, 10.5), (4, 8)])
def test_limit_is_what_a_model_of_this_speed_answers_in_time(seconds, lets_in):
    service = Service(most=78)
    took = {"decode": 0.1 * seconds, "model": 0.9 * seconds}
    assert service.ask(10, **took) == 78  # a lone request does not show how fast the model can be
    service.limit.in_flight = 7  # which have not ended
    assert service.ask(10, fetch=4, **took) == 78  # more came while it was fetched
    assert service.ask(40, **took) == pytest.approx(lets_in)  # 0.7 of 3 s, eight in `seconds`
    assert service.ask(80, decode=0.01, model=0.1) == 78  # it has become fast
    assert service.ask(1, reason="caller-left", decode=3) == pytest.approx(0.9 * 78)


def test_one_impatient_caller_changes_little():
    service = Service(most=78)
    service.limit.in_flight = 7
    assert service.ask(40, decode=0.1, model=0.7) == pytest.approx(21)
    assert service.ask(1, reason="caller-left", decode=0.06) > 18
    assert service.ask(200, decode=0.1, model=0.7) > 20


def test_a_quiet_minute_later_the_limit_is_as_at_the_start(monkeypatch):
    service = Service(most=78)
    service.limit.in_flight = 7
    assert service.ask(40, decode=1, model=3) == 8
    assert service.ask(40, reason="caller-left", decode=1) < 8
    later = time.monotonic() + 61
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert service.ask(1, decode=0.1) == 78
