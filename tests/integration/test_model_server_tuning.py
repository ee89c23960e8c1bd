"""The model server measures how many threads suit a model, and leaves no other copy of it."""

import threading
import time
from functools import partial
from typing import ClassVar

import pytest
import tensorflow as tf

from model_server import tuning
from model_server.engines.tensorflow import TensorFlowEngine
from tests import saved_models
from tests.serving import predict_request
from tutorial import TutorialError, tune


class Slow(TensorFlowEngine):
    """A model whose runs take `seconds`; with more than one thread they wait for each other."""

    seconds: ClassVar = {}  # by threads
    closed: ClassVar = []
    shared = threading.Lock()

    def __init__(self, path, threads):
        super().__init__(path, threads=threads)
        self.threads = threads

    def run(self, *arguments):
        if self.threads == 1:
            time.sleep(self.seconds[1])
        else:
            with self.shared:
                time.sleep(self.seconds[self.threads])
        return super().run(*arguments)

    def close(self):
        self.closed.append(self.threads)
        super().close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A SavedModel, on a machine with two processors."""
    monkeypatch.setattr(tuning, "available_cpus", lambda: 2)
    monkeypatch.setattr(tuning, "SECONDS", 0.1)
    monkeypatch.setattr(Slow, "closed", [])
    return saved_models.save_scale(tmp_path / "1")


@pytest.mark.parametrize(
    ("one", "two", "chosen"), [(0.005, 0.005, 1), (0.006, 0.005, 1), (0.02, 0.005, 2)]
)
def test_one_thread_is_chosen_if_many_callers_gain_more_than_one_loses(
    folder, monkeypatch, caplog, one, two, chosen
):
    saved_models.write_warmup(folder, predict_request())
    monkeypatch.setattr(Slow, "seconds", {1: one, 2: two})
    caplog.set_level("INFO")
    engine = tuning.choose_threads(partial(Slow, folder), folder)
    assert engine.threads == chosen
    assert Slow.closed == [3 - chosen]
    assert f"{chosen} threads for an operation" in caplog.text
    engine.close()


@pytest.mark.parametrize(("cpus", "warm"), [(1, True), (2, False)])
def test_nothing_is_measured_on_one_processor_or_without_a_warmup(folder, monkeypatch, cpus, warm):
    if warm:
        saved_models.write_warmup(folder, predict_request())
    monkeypatch.setattr(tuning, "available_cpus", lambda: cpus)
    engine = tuning.choose_threads(partial(Slow, folder), folder)
    assert engine.threads == cpus
    assert not Slow.closed
    engine.close()


def test_a_warmup_that_fails_leaves_no_model_behind(folder, monkeypatch):
    saved_models.write_warmup(folder, predict_request(signature="no"))
    monkeypatch.setattr(Slow, "seconds", {1: 0, 2: 0})
    with pytest.raises(tf.errors.FailedPreconditionError, match='"no"'):
        tuning.choose_threads(partial(Slow, folder), folder)
    assert sorted(Slow.closed) == [1, 2]


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
