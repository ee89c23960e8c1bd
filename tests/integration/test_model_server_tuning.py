"""The model server measures how many threads suit a model, and leaves no other copy of it."""

import threading
import time
from contextlib import nullcontext
from functools import partial
from typing import ClassVar

import pytest
import tensorflow as tf

from model_server import tuning
from model_server.engines.tensorflow import TensorFlowEngine
from tests import saved_models
from tests.serving import predict_request
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


@pytest.mark.parametrize(
    ("one", "two", "chosen"),
    [
        ((0.5, 4), (0.5, 2), 1),
        ((0.6, 4), (0.5, 2), 1),
        ((2, 1), (0.5, 2), 2),
        ((1, 3), (0.5, 2), 2),
    ],
)
def test_one_thread_is_chosen_if_many_callers_gain_more_than_one_loses(
    folder, monkeypatch, caplog, one, two, chosen
):
    saved_models.write_warmup(folder, predict_request())
    speeds = {1: tuning.Speed(*one), 2: tuning.Speed(*two)}
    monkeypatch.setattr(tuning, "measure", lambda engine, *_: speeds[engine.threads])
    caplog.set_level("INFO")
    engine = tuning.choose_threads(partial(Engine, folder), folder)
    assert engine.threads == chosen
    assert Engine.closed == [3 - chosen]
    assert f"{chosen} threads for an operation" in caplog.text
    engine.close()


@pytest.mark.parametrize(("threads", "at_most"), [(1, 200), (2, 100)])
def test_a_model_is_measured_alone_and_with_many_callers(folder, threads, at_most):
    engine = Slow(folder, threads)
    speed = tuning.measure(engine, predict_request(), 2)
    assert speed.alone >= 0.01
    assert 0 < speed.together <= at_most
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


def test_tune_says_that_a_model_without_a_warmup_cannot_be_measured(tmp_path):
    saved_models.save_scale(tmp_path / "scale/1")
    with pytest.raises(TutorialError, match="lesson 01 writes one"):
        tune.measure_threads(tmp_path / "scale")


@pytest.mark.parametrize("number", [0, 10_000])
def test_tune_refuses_more_processors_than_there_are(number):
    with pytest.raises(TutorialError, match=f"--cpus={number}: this machine has 1 to"):
        tune.limit_cpus(number)
