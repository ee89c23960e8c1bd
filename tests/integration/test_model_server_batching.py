"""Requests that come at the same time are run together, and each gets its own answer."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

from model_server import config  # noqa: E402
from model_server.config import BatchingParameters  # noqa: E402
from model_server.runtime.batching import Batcher  # noqa: E402
from model_server.runtime.servable import Servable  # noqa: E402
from model_server.runtime.tensorflow_engine import TensorFlowEngine  # noqa: E402
from tests.integration.test_model_server import (  # noqa: E402
    SECONDS,
    predict_request,
    saved,  # noqa: F401  (a fixture)
)

SOON = 50_000  # microseconds: long enough for requests to meet
INPUTS = frozenset({"x"})


class Recorder:
    """A model that doubles x, waits where it is told to, and remembers what it was fed."""

    def __init__(self):
        self.batches, self.timeouts = [], []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, feeds, fetches, timeout):
        self.batches.append(feeds["x"])
        self.timeouts.append(timeout)
        assert self.go_on.wait(SECONDS)
        if feeds["x"].dtype != object and (feeds["x"] == -1).any():
            raise tf.errors.InvalidArgumentError(None, None, "minus one")
        return [feeds["x"] * 2 for _ in fetches]


@pytest.fixture
def model():
    return Recorder()


@pytest.fixture
def batch(model):
    """Make a function that runs arrays at the same time, and gives back outputs or errors."""
    batchers = []

    def make(**parameters):
        parameters = {"max_batch_size": 4, "batch_timeout_micros": SOON, **parameters}
        batcher = Batcher(model, BatchingParameters(**parameters), [INPUTS])
        batchers.append(batcher)

        def run(*arrays, timeout=SECONDS, fetches="y"):
            def one(array):
                try:
                    return batcher.run({"x": array}, list(fetches), timeout)[0]
                except tf.errors.OpError as error:
                    return error

            with ThreadPoolExecutor(len(arrays)) as pool:
                return list(pool.map(one, arrays))

        return run

    yield make
    model.go_on.set()
    for batcher in batchers:
        batcher.close()


def row(*values):
    return np.array([values], np.float32)


def sizes(model):
    return sorted(len(x) for x in model.batches)


def test_requests_are_run_together_and_answered_apart(batch, model):
    arrays = [np.full((n, 2), n, np.float32) for n in (1, 2, 1)]
    outputs = batch()(*arrays)
    assert sizes(model) == [4]
    for array, output in zip(arrays, outputs, strict=True):
        np.testing.assert_array_equal(output, array * 2, strict=True)


def test_one_request_is_run_when_its_time_is_over(batch, model):
    started = time.monotonic()
    [output] = batch()(row(3))
    assert time.monotonic() - started >= SOON / 1e6
    assert output.tolist() == [[6]]
    assert sizes(model) == [1]


def test_different_shapes_and_dtypes_are_never_mixed(batch, model):
    arrays = [row(1), row(1, 2), np.array([[1]], np.int32), row(5)]
    outputs = batch()(*arrays)
    assert {(x.shape, x.dtype.name) for x in model.batches} == {
        ((2, 1), "float32"),
        ((1, 2), "float32"),
        ((1, 1), "int32"),
    }
    assert [output.tolist() for output in outputs] == [[[2]], [[2, 4]], [[2]], [[10]]]


def test_shorter_inputs_are_filled_up_where_that_is_enabled(batch, model):
    outputs = batch(pad_variable_length_inputs=True)(row(1), row(1, 2), row(5, 6, 7), row(8))
    assert [x.shape for x in model.batches] == [(4, 3)]
    assert [o.tolist() for o in outputs[:2]] == [[[2, 0, 0]], [[2, 4, 0]]]


def test_batch_is_filled_up_to_an_allowed_size(batch, model):
    outputs = batch(max_batch_size=8, allowed_batch_sizes=(1, 4, 8))(row(1), row(2), row(3))
    assert [x.shape for x in model.batches] == [(4, 1)]
    assert set(model.batches[0].ravel()) == {1, 2, 3}
    assert [output.tolist() for output in outputs] == [[[2]], [[4]], [[6]]]


def test_request_larger_than_a_batch_is_refused(batch, model):
    [error] = batch()(np.zeros((5, 1), np.float32))
    assert isinstance(error, tf.errors.InvalidArgumentError)
    assert error.message == "Task size 5 is larger than maximum input batch size 4"
    [error] = batch()(np.zeros((2**31, 0), np.float32))  # claims rows without a byte of content
    assert "Task size 2147483648" in error.message
    assert not model.batches


def test_large_request_is_split_where_that_is_enabled(batch, model):
    run = batch(max_batch_size=100, enable_large_batch_splitting=True, max_execution_batch_size=4)
    large, small = np.arange(10, dtype=np.float32)[:, None], row(77)
    outputs = run(large, small)
    assert max(sizes(model)) == 4
    np.testing.assert_array_equal(outputs[0], large * 2)
    np.testing.assert_array_equal(outputs[1], small * 2)
    assert sum(sizes(model)) == 11  # nothing is run twice


def test_full_queue_is_unavailable(batch, model):
    model.go_on.clear()
    run = batch(max_batch_size=1, num_batch_threads=1, max_enqueued_batches=2)
    threading.Timer(0.5, model.go_on.set).start()
    outputs = run(*[row(n) for n in range(8)])
    refused = [error for error in outputs if isinstance(error, tf.errors.UnavailableError)]
    assert len(refused) == 8 - 1 - 2
    assert "The batch scheduling queue to which this task was submitted is full" in (
        refused[0].message
    )
    assert "node" not in refused[0].message
    assert sizes(model) == [1] * 3


def test_batches_run_at_once_on_as_many_threads_as_told(batch, model):
    model.go_on.clear()
    run = batch(max_batch_size=1, num_batch_threads=3, max_enqueued_batches=100)
    with ThreadPoolExecutor(1) as pool:
        outputs = pool.submit(run, *[row(n) for n in range(6)])
        deadline = time.monotonic() + SECONDS
        while len(model.batches) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert len(model.batches) == 3
        model.go_on.set()
        assert [output.item() for output in outputs.result()] == [0, 2, 4, 6, 8, 10]


def test_error_reaches_those_who_ran_together(batch):
    outputs = batch()(row(-1), row(1), row(1, 2))
    assert [getattr(output, "message", None) for output in outputs] == [
        "minus one",
        "minus one",
        None,
    ]


def test_who_waited_longer_than_its_deadline(batch, model):
    [error] = batch(batch_timeout_micros=200_000)(row(1), timeout=0.05)
    assert isinstance(error, tf.errors.ResourceExhaustedError)
    assert error.message == "Run() timeout exceeded while waiting in batching queue"
    assert not model.batches


def test_run_lasts_as_long_as_the_longest_deadline(batch, model):
    batch()(row(1), timeout=3)
    assert 2.5 < model.timeouts[0] < 3


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.float32(1)}, "Batching Run() input tensors must have at least one dimension"),
        (
            {"x": np.zeros((2, 1)), "z": np.zeros((3, 1))},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
    ],
)
def test_what_cannot_be_batched(model, feeds, message):
    batcher = Batcher(model, BatchingParameters(), [frozenset(feeds)])
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        batcher.run({n: np.asarray(a) for n, a in feeds.items()}, ["y"], 1)
    assert caught.value.message == message
    batcher.close()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.zeros(()), "Batched output tensor has 0 dimensions"),
        (np.zeros((3, 1)), "Batched output tensor's 0th dimension does not equal the sum"),
    ],
)
def test_output_that_cannot_be_given_back(output, message):
    batcher = Batcher(lambda *_: [output], BatchingParameters(), [INPUTS])
    with pytest.raises(tf.errors.FailedPreconditionError, match=message):
        batcher.run({"x": row(1)}, ["y"], 1)
    batcher.close()


def test_empty_request_and_unknown_inputs_are_run_alone(model):
    batcher = Batcher(model, BatchingParameters(), [frozenset({"other"})])
    batcher.run({"x": row(1)}, ["y"], 1)
    batcher.close()
    batcher = Batcher(model, BatchingParameters(), [INPUTS])
    batcher.run({"x": np.zeros((0, 2))}, ["y"], 1)
    batcher.close()
    assert [x.shape for x in model.batches] == [(1, 1), (0, 2)]


def test_saved_model_with_batching(saved, monkeypatch):  # noqa: F811
    runs = []
    run_alone = Servable._run_alone

    def recording(self, feeds, fetches, timeout):
        runs.append(sorted(feeds))
        return run_alone(self, feeds, fetches, timeout)

    monkeypatch.setattr(Servable, "_run_alone", recording)
    parameters = BatchingParameters(max_batch_size=8, batch_timeout_micros=SOON * 4)
    served = Servable(TensorFlowEngine(saved), parameters)

    def ask(n):
        return served.predict(predict_request({"x": np.full((1, 3), n, np.float32)}))

    def words(n):
        return served.predict(predict_request({"text": [b"%d" % n]}, signature="words"))

    with ThreadPoolExecutor(8) as pool:
        numbers, texts = pool.map(ask, range(4)), pool.map(words, range(4))
        assert [a.outputs["scaled"].float_val[0] for a in numbers] == [0, 2, 4, 6]
        assert [a.outputs["upper"].string_val[0] for a in texts] == [b"0", b"1", b"2", b"3"]
    assert sorted(runs) == [["serving_default_x:0"], ["words_text:0"]]
    wrong = predict_request({"x": np.ones((1, 3), np.int32)})
    with pytest.raises(tf.errors.InvalidArgumentError, match="Expects arg"):
        served.predict(wrong)
    served.close()


# The file


def test_parameters_are_read(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 0 }\n"
        'max_enqueued_batches { value: 7 } num_batch_threads { value: 8 } # "#" is a comment\n'
        'thread_pool_name { value: "x" } allowed_batch_sizes: 64 allowed_batch_sizes: 128\n'
        "pad_variable_length_inputs: true"
    )
    assert config.read_batching_parameters(file) == BatchingParameters(
        max_batch_size=128,
        batch_timeout_micros=0,
        max_enqueued_batches=7,
        num_batch_threads=8,
        allowed_batch_sizes=(64, 128),
        pad_variable_length_inputs=True,
    )
    assert config.read_batching_parameters(None).max_batch_size == 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch_size: 3", "Error parsing text-format tensorflow.serving.BatchingParameters"),
        ("max_batch_size { value: 0 }", "max_batch_size must be positive"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive"),
        ("batch_timeout_micros { value: -1 }", "must be non-negative"),
        ("max_batch_size { value: 4 } allowed_batch_sizes: [4, 2]", "in increasing order"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: 8",
            "must match max_batch_size; last entry was 8; expected 4",
        ),
    ],
)
def test_parameters_that_cannot_be(tmp_path, text, message):
    file = tmp_path / "batching.config"
    file.write_text(text)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        config.read_batching_parameters(file)
    assert message in caught.value.message
