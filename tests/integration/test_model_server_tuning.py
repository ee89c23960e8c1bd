"""The model server measures how many threads suit a model, and leaves no other copy of it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
import tensorflow as tf

from model_server import tuning
from model_server.engines import folding
from model_server.engines.tensorflow import TensorFlowEngine
from tests import saved_models
from tests.serving import SECONDS, predict_request
from tutorial import TutorialError, tune


class Engine(TensorFlowEngine):
    """A model that knows its threads, and remembers which of them were closed."""

    closed: ClassVar = []

    def __init__(self, path, threads):
        super().__init__(path, threads=threads)
        self.threads = threads

    def close(self):
        self.closed.append(self.threads)
        super().close()


class Slow(Engine):
    """A model that takes ten milliseconds; with more than one thread, runs wait for each other."""

    shared = threading.Lock()

    def run(self, *arguments):
        with self.shared if self.threads > 1 else nullcontext():
            time.sleep(0.01)
        return super().run(*arguments)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A SavedModel, on a machine with two processors."""
    monkeypatch.setattr(tuning, "available_cpus", lambda: 2)
    monkeypatch.setattr(tuning, "SECONDS", 0.1)
    monkeypatch.setattr(Engine, "closed", [])
    return saved_models.save_scale(tmp_path / "1")


def choose(folder, monkeypatch, one, two):
    """Choose between engines of one and two threads, which are as fast as told."""
    saved_models.write_warmup(folder, predict_request())
    speeds = {1: tuning.Speed(*one), 2: tuning.Speed(*two)}
    monkeypatch.setattr(tuning, "measure", lambda engine, *_: speeds[engine.threads])
    return tuning.choose_threads(partial(Engine, folder), folder)


@pytest.mark.parametrize(
    ("one", "two", "left_out", "words"),
    [
        ((0.5, 4), (0.5, 2), [2], "1 thread for"),
        ((0.6, 2), (0.5, 4), [1], "2 threads for an operation ("),
        ((0.6, 4), (0.5, 4), [], "2 threads for an operation, 1 while several requests run ("),
    ],
)
def test_a_model_gets_the_threads_that_suit_lone_and_many_callers(
    folder, monkeypatch, caplog, one, two, left_out, words
):
    caplog.set_level("INFO")
    engine = choose(folder, monkeypatch, one, two)
    assert Engine.closed == left_out
    assert words in caplog.text
    engine.close()
    assert sorted(Engine.closed) == [1, 2]


def test_a_model_with_too_many_weights_is_loaded_once(folder, monkeypatch):
    monkeypatch.setattr(folding, "LARGEST", 0)
    choose(folder, monkeypatch, (0.6, 4), (0.5, 4)).close()
    assert Engine.closed == [2]


@pytest.mark.parametrize(
    ("alone", "pair", "joins"), [(0.01, 9, True), (1, 1.5, True), (1, 2.1, False)]
)
def test_requests_are_joined_unless_that_makes_a_long_run_no_cheaper(
    folder, monkeypatch, alone, pair, joins
):
    engine = choose(folder, monkeypatch, (alone, 4, pair), (alone, 4, pair))
    assert engine.joins is joins
    engine.close()


@pytest.mark.parametrize(("threads", "at_most"), [(1, 200), (2, 100)])
def test_a_model_is_measured_alone_and_with_many_callers(folder, threads, at_most):
    engine = Slow(folder, threads)
    speed = tuning.measure(engine, [predict_request()], 2)
    assert speed.alone >= 0.01
    assert 0 < speed.together <= at_most
    engine.close()


def test_two_requests_in_one_run_are_measured_if_a_run_is_long(folder, monkeypatch):
    monkeypatch.setattr(tuning, "QUICK", 0.01)
    engine = Slow(folder, 1)
    assert 0.01 <= tuning.measure(engine, [predict_request()], 2).pair < 9
    engine.close()


def test_a_run_that_is_alone_gets_all_processors_and_others_one_each(folder):
    entered, go_on, used = threading.Barrier(3), threading.Event(), []

    class Waiting(Engine):
        def run(self, *_):
            used.append(self.threads)
            entered.wait(SECONDS)
            go_on.wait(SECONDS)

    engine = tuning.TwoEngines(Waiting(folder, 2), Waiting(folder, 1))
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(engine.run, {}, [], 9) for _ in range(2)]
        entered.wait(SECONDS)
        go_on.set()
        for run in runs:
            run.result()
    assert sorted(used) == [1, 2]
    entered = threading.Barrier(1)
    engine.run({}, [], 9)
    assert used[2:] == [2]
    engine.close()


@pytest.mark.parametrize(("cpus", "warm"), [(1, True), (2, False)])
def test_nothing_is_measured_on_one_processor_or_without_a_warmup(folder, monkeypatch, cpus, warm):
    if warm:
        saved_models.write_warmup(folder, predict_request())
    monkeypatch.setattr(tuning, "available_cpus", lambda: cpus)
    engine = tuning.choose_threads(partial(Engine, folder), folder)
    assert engine.threads == cpus
    assert not Engine.closed
    engine.close()


def test_a_warmup_that_fails_leaves_no_model_behind(folder):
    saved_models.write_warmup(folder, predict_request(signature="no"))
    with pytest.raises(tf.errors.FailedPreconditionError, match='"no"'):
        tuning.choose_threads(partial(Engine, folder), folder)
    assert sorted(Engine.closed) == [1, 2]


@pytest.mark.parametrize(
    ("text", "expected"), [("150000 100000\n", 2), ("max 100000\n", 8), ("10000 100000\n", 1)]
)
def test_available_cpus_knows_the_limit_of_a_container(monkeypatch, text, expected):
    monkeypatch.setattr(tuning.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(tuning.Path, "read_text", lambda _: text)
    assert tuning.available_cpus() == expected


def test_tune_returns_what_the_model_server_chose(tmp_path):
    saved_models.write_warmup(saved_models.save_scale(tmp_path / "scale/1"), predict_request())
    threads, figures = tune.measure_threads(tmp_path / "scale")
    assert threads in (1, tuning.available_cpus())
    assert "requests/s" in figures


def test_tune_says_that_a_model_without_a_warmup_cannot_be_measured(tmp_path, monkeypatch):
    log = tmp_path / "tune.log"
    log.write_text("Loaded version 1 of scale\n")
    server = nullcontext(SimpleNamespace(log=log))
    monkeypatch.setattr(tune.services, "start_model_server", lambda *_: server)
    with pytest.raises(TutorialError, match="lesson 01 writes one"):
        tune.measure_threads(tmp_path / "scale")


@pytest.mark.parametrize("number", [0, 10_000])
def test_tune_refuses_more_processors_than_there_are(number):
    with pytest.raises(TutorialError, match=f"--cpus={number}: this machine has 1 to"):
        tune.limit_cpus(number)
