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


PATIENCE = 0.05  # seconds


def outcomes(app, path: str, times: int) -> None:
    for _ in range(times):
        app.test_client().get(path, buffered=True)


def test_limit_falls_when_callers_give_up_and_rises_with_answers():
    app = Flask(__name__)
    limit = ConcurrencyLimit(app, most=10, patience=3)

    @app.get("/<reason>/<stage>")
    def end(reason, stage):
        time.sleep(PATIENCE)
        request.environ |= {"gateway.reason": reason, "gateway.stages": {stage: 0.1}}
        return "", 400

    @app.get("/")
    def soon():
        return "done"

    @app.get("/late")
    def late():
        time.sleep(PATIENCE)
        return "done"

    for path in ("/bad-picture/decode", "/busy/decode", "/caller-left/fetch"):
        outcomes(app, path, 5)
    assert limit.limit == 10  # no sign of a queue that is too long
    outcomes(app, "/caller-left/decode", 5)
    fallen = limit.limit
    assert 5 < fallen < 7
    outcomes(app, "/out-of-time/decode", 20)
    assert limit.limit == 2
    outcomes(app, "/late", 5)
    assert limit.limit == 2
    outcomes(app, "/", 50)
    assert 5 < limit.limit < 10
    outcomes(app, "/", 200)
    assert limit.limit == 10


@pytest.mark.parametrize(("seconds", "lets_in"), [(0.2, 78), (0.8, 21), (1.6, 10.5), (4, 8)])
def test_limit_is_what_a_model_of_this_speed_answers_in_time(seconds, lets_in):
    app = Flask(__name__)
    limit = ConcurrencyLimit(app, most=78, patience=3)

    @app.get("/")
    def answer():
        stages = {"fetch": 4, "decode": 0.1 * seconds, "model": 0.9 * seconds}
        request.environ["gateway.stages"] = stages
        return "done"

    outcomes(app, "/", 10)
    assert limit.limit == 78  # a lone request does not show how fast the model can be
    limit.in_flight = 7  # which have not ended
    outcomes(app, "/", 40)
    assert limit.limit == pytest.approx(lets_in)  # in 0.7 of 3 s, if eight take `seconds`
    seconds = 0.2
    outcomes(app, "/", 40)
    assert limit.limit == 78  # it has become fast
