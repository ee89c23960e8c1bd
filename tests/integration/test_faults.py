"""Model servers killed, away and frozen under load, behind a gateway as it is deployed.

The passing figures are for the durations of FAULTS=full (`make test-faults`); by default the faults
are shorter, and the figures the same.
"""

import math
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import requests

from tests.model_process import ModelProcess
from tests.pictures import TEAL, png
from tutorial import services
from tutorial.processes import free_port

FULL = os.environ.get("FAULTS") == "full"

pytestmark = pytest.mark.serial


@pytest.fixture
def served(contract_file) -> Iterator:
    """A function that starts models and a gateway: how many -> (models, the gateway's address)."""
    with ExitStack() as stack:

        def start(replicas: int, **settings: object) -> tuple[list[ModelProcess], str]:
            models = [stack.enter_context(ModelProcess()) for _ in range(replicas)]
            addresses = ",".join(f"127.0.0.1:{model.port}" for model in models)
            port = free_port()
            gateway = services.start_gateway(
                port,
                contract=contract_file,
                model_address=f"ipv4:///{addresses}",
                name="faults gateway",
                **settings,
            )
            stack.enter_context(gateway)
            return models, f"http://127.0.0.1:{port}/predict"

        yield start


@dataclass(frozen=True)
class Answer:
    """How one prediction ended; times in seconds on time.monotonic's clock."""

    asked: float
    answered: float
    status: int

    @property
    def took(self) -> float:
        return self.answered - self.asked


def ask(address: str) -> Answer:
    """Send a picture; whatever else happens, a score that comes is right."""
    asked = time.monotonic()
    answer = requests.post(address, files={"file": png()}, timeout=30)
    answered = time.monotonic()
    if answer.status_code == 200:
        assert tuple(answer.json().values()) == TEAL
    return Answer(asked, answered, answer.status_code)


def ask_steadily(address: str, *, rate: float, seconds: float) -> list[Answer]:
    """Ask `rate` times a second, whether or not earlier questions are answered."""
    begun = time.monotonic()
    with ThreadPoolExecutor(100) as pool:
        asking = []
        for number in range(int(rate * seconds)):
            time.sleep(max(0, begun + number / rate - time.monotonic()))
            asking.append(pool.submit(ask, address))
        return [future.result() for future in asking]


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def report(**figures: float) -> None:
    """Show the figures with `pytest -s` or in a failure."""
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))


def test_a_killed_model_that_is_back_after_a_second_costs_no_answer(served, background):
    [model], address = served(1)
    seconds = 30 if FULL else 6
    load = background.submit(ask_steadily, address, rate=20, seconds=seconds)
    time.sleep(seconds / 3)
    model.kill()
    killed = time.monotonic()
    model.load()
    time.sleep(1)
    model.start()
    away = time.monotonic() - killed
    answers = load.result()
    failures = [answer for answer in answers if answer.status != 200]
    slowest = max(answer.took for answer in answers)
    report(answers=len(answers), failures=len(failures), slowest=slowest, away=away)
    assert not failures
    assert slowest < 3
    assert slowest > 0.5  # else the outage was not met


def test_while_the_model_is_away_callers_are_told_so_in_time(served, background):
    [model], address = served(1)
    outage = 20 if FULL else 5
    load = background.submit(ask_steadily, address, rate=4, seconds=outage + 4)
    time.sleep(1)
    model.kill()
    time.sleep(outage)
    model.load()
    model.start()
    back = time.monotonic()
    answers = load.result()
    failures = [answer for answer in answers if answer.status != 200]
    slowest = max(answer.took for answer in failures)
    first = min(
        (a.answered - back for a in answers if a.status == 200 and a.answered > back),
        default=math.inf,
    )
    report(answers=len(answers), failures=len(failures), slowest=slowest, first_200_after=first)
    assert {answer.status for answer in failures} <= {503, 504}
    assert len(failures) >= 4 * (outage - 4)
    assert slowest < 3.5
    assert first < 2
    assert all(answer.status == 200 for answer in answers if answer.asked > back + 2)


def test_one_of_two_models_frozen_is_left_alone_before_long(served):
    (frozen, _), address = served(2)
    for _ in range(4):
        assert ask(address).status == 200
    frozen.freeze()
    begun = time.monotonic()
    answers = []
    while time.monotonic() - begun < (20 if FULL else 16):
        answers.append(ask(address))
    frozen.thaw()
    failures = [answer for answer in answers if answer.status != 200]
    last = max((answer.answered for answer in failures), default=begun) - begun
    report(answers=len(answers), failures=len(failures), last_failure_after=last)
    assert len(failures) <= 6
    assert last <= 15
    assert {answer.status for answer in failures} <= {503, 504}
    assert ask(address).status == 200
