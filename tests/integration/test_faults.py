"""Model servers killed, away and frozen under load, behind a gateway as it is deployed.

The passing figures are for the durations of FAULTS=full (`make test-faults`); by default the faults
are shorter, and the figures the same.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.gateway_process import GatewayProcess
from tests.pictures import TEAL
from tutorial.processes import wait_until

FULL = os.environ.get("FAULTS") == "full"

pytestmark = pytest.mark.timed


class Answer(NamedTuple):
    """How one prediction ended; times in seconds on time.monotonic's clock."""

    asked: float
    answered: float
    status: int

    @property
    def took(self) -> float:
        return self.answered - self.asked


def ask(gateway: GatewayProcess) -> Answer:
    """Send a picture; whatever else happens, a score that comes is right."""
    asked = time.monotonic()
    answer = gateway.predict()
    answered = time.monotonic()
    if answer.status_code == 200:
        assert tuple(answer.json().values()) == TEAL
    return Answer(asked, answered, answer.status_code)


def ask_steadily(
    gateway: GatewayProcess, *, rate: float, seconds: float, meanwhile: Callable[[], float]
) -> tuple[list[Answer], list[Answer], float]:
    """Ask `rate` times a second, whether or not earlier questions are answered.

    Returns the answers, those of them that are failures, and what `meanwhile()` returned.
    """
    begun = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        fault = pool.submit(meanwhile)
        asking = []
        for number in range(int(rate * seconds)):
            time.sleep(max(0, begun + number / rate - time.monotonic()))
            asking.append(pool.submit(ask, gateway))
        answers = [future.result() for future in asking]
        failures = [answer for answer in answers if answer.status != 200]
        print("answers", len(answers), "failures", len(failures))
        return answers, failures, fault.result()


def test_model_killed_and_back_after_a_second_costs_no_answer(start_chain):
    gateway, [model] = start_chain()
    seconds = 30 if FULL else 6

    def restart() -> float:
        time.sleep(seconds / 3)
        model.kill()
        killed = time.monotonic()
        model.load()
        time.sleep(1)
        model.start()
        return time.monotonic() - killed

    answers, failures, away = ask_steadily(gateway, rate=20, seconds=seconds, meanwhile=restart)
    slowest = max(answer.took for answer in answers)
    print("slowest", slowest, "away", away)
    assert not failures
    assert 0.5 < slowest < 3  # a lower figure: the outage was not met


def test_callers_hear_in_time_that_the_model_is_away(start_chain):
    gateway, [model] = start_chain()
    outage = 20 if FULL else 5

    def be_away() -> float:
        time.sleep(1)
        model.kill()
        time.sleep(outage)
        model.load()
        model.start()
        return time.monotonic()

    answers, failures, back = ask_steadily(gateway, rate=4, seconds=outage + 4, meanwhile=be_away)
    slowest = max(answer.took for answer in failures)
    good = [answer.answered - back for answer in answers if answer.status == 200]
    first = min(after for after in good if after > 0)
    print("slowest", slowest, "first 200 after", first)
    assert {answer.status for answer in failures} <= {503, 504}
    assert len(failures) >= 4 * (outage - 4)
    assert slowest < 3.5
    assert first < 2
    assert all(answer.status == 200 for answer in answers if answer.asked > back + 2)


def test_gateway_avoids_a_frozen_model_before_long(start_chain):
    gateway, [frozen, _] = start_chain(2)
    assert {ask(gateway).status for _ in range(4)} == {200}
    frozen.freeze()
    begun = time.monotonic()
    failures = []
    while time.monotonic() - begun < (20 if FULL else 16):
        failures += [answer for answer in [ask(gateway)] if answer.status != 200]
    frozen.thaw()
    last = max((answer.answered for answer in failures), default=begun) - begun
    print("failures", len(failures), "the last after", last)
    assert len(failures) <= 6
    assert last <= 15
    assert {answer.status for answer in failures} <= {503, 504}
    assert ask(gateway).status == 200


def test_gateway_holds_requests_until_a_model_that_was_scaled_to_zero_is_back(start_chain):
    gateway, [model] = start_chain(model_wait=6, threads=8)
    model.kill()
    with ThreadPoolExecutor(6) as pool:
        held = [pool.submit(ask, gateway) for _ in range(6)]
        wait_until(lambda: gateway.metric("gateway_in_flight") == 6, timeout=2, what="requests")
        assert gateway.predict().status_code == 503  # at once: six are as many as it holds
        model.load()
        time.sleep(2)
        assert gateway.admin("/livez").status_code == gateway.admin("/readyz").status_code == 200
        assert gateway.metric("gateway_in_flight") == 6
        model.start()
        begun = time.monotonic()
        assert [answer.result().status for answer in held] == [200] * 6
    assert time.monotonic() - begun < 1
