"""Requests that come at the same time are run together, and each gets its own answer."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from model_server import config
from model_server.batching import Batcher
from model_server.config import BatchingParameters
from model_server.engines.tensorflow import TensorFlowEngine
from model_server.servable import Servable
from tests import saved_models
from tests.serving import SECONDS, predict_request, soon

SOON = 50_000  # microseconds: long enough for requests to meet


class Recorder:
    """A model that doubles x, waits for `go_on`, and remembers what it was fed."""

    def __init__(self):
        self.batches, self.timeouts = [], []
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, feeds, fetches, timeout):
        self.batches.append(feeds["x"])
        self.timeouts.append(timeout)
        assert self.go_on.wait(SECONDS)
        if (feeds["x"] == -1).any():
            raise tf.errors.InvalidArgumentError(None, None, "minus one")
        return [feeds["x"] * 2 for _ in fetches]


@pytest.fixture
def model():
    return Recorder()


def batching(model, joins=True, **parameters):
    """Make a batcher of small batches."""
    parameters = {"max_batch_size": 4, "batch_timeout_micros": SOON, **parameters}
    return Batcher(model, BatchingParameters(**parameters), joins=joins)


@pytest.fixture
def batcher(model):
    return batching(model)


def together(batcher, *arrays, timeout=SECONDS):
    """Run arrays at the same time; return outputs or errors."""

    def one(array):
        try:
            return batcher.run({"x": array}, ["y"], timeout)[0]
        except tf.errors.OpError as error:
            return error

    with ThreadPoolExecutor(len(arrays)) as pool:
        return list(pool.map(one, arrays))


def row(*values):
    return np.array([values], np.float32)


def test_requests_are_run_together_and_answered_apart(batcher, model):
    arrays = [np.full((n, 2), n, np.float32) for n in (1, 2, 1)]
    outputs = together(batcher, *arrays)
    assert [len(x) for x in model.batches] == [4]
    for array, output in zip(arrays, outputs, strict=True):
        np.testing.assert_array_equal(output, array * 2, strict=True)


def test_batch_that_waits_until_it_is_full(model):
    batcher = batching(model, batch_timeout_micros=2**63 - 1)
    together(batcher, row(1), row(2), row(3), row(4))
    assert [len(batch) for batch in model.batches] == [4]
    [error] = together(batcher, row(5), timeout=0.1)
    assert isinstance(error, tf.errors.DeadlineExceededError)


def test_different_shapes_and_dtypes_are_never_mixed(batcher, model):
    arrays = [row(1), row(1, 2), np.array([[1]], np.int32), row(5)]
    outputs = together(batcher, *arrays)
    kinds = sorted((x.dtype.name, x.shape) for x in model.batches)
    assert kinds == [("float32", (1, 2)), ("float32", (2, 1)), ("int32", (1, 1))]
    assert [output.tolist() for output in outputs] == [[[2]], [[2, 4]], [[2]], [[10]]]


def test_request_larger_than_a_batch_is_refused(batcher, model):
    for rows, columns in ((5, 1), (2**31, 0)):  # even rows without a byte of content
        [error] = together(batcher, np.zeros((rows, columns), np.float32))
        assert isinstance(error, tf.errors.InvalidArgumentError)
        assert f"{rows} rows; max_batch_size is 4" in error.message
    assert not model.batches


def test_full_queue_is_unavailable(model):
    model.go_on.clear()
    limits = {"max_batch_size": 1, "num_batch_threads": 1, "max_enqueued_batches": 2}
    batcher = batching(model, **limits)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(together, batcher, row(0))]
        soon(lambda: model.batches)
        calls += [pool.submit(together, batcher, row(n)) for n in range(1, 8)]
        refused = 8 - 1 - 2
        soon(lambda: sum(call.done() for call in calls) == refused)
        model.go_on.set()
        outputs = [call.result()[0] for call in calls]
    errors = [error for error in outputs if isinstance(error, tf.errors.UnavailableError)]
    assert len(errors) == refused
    assert "queue" in errors[0].message
    assert [len(x) for x in model.batches] == [1] * 3


def test_batches_run_at_once_on_as_many_threads_as_told(model):
    model.go_on.clear()
    limits = {"max_batch_size": 1, "num_batch_threads": 3, "max_enqueued_batches": 100}
    batcher = batching(model, **limits)
    with ThreadPoolExecutor(1) as pool:
        outputs = pool.submit(together, batcher, *[row(n) for n in range(6)])
        soon(lambda: len(model.batches) == 3)
        time.sleep(0.2)
        assert len(model.batches) == 3
        model.go_on.set()
        assert [output.item() for output in outputs.result()] == [0, 2, 4, 6, 8, 10]


@pytest.mark.parametrize(
    ("left", "sizes"),
    [(set(), [1, 4, 1]), ({1}, [1, 4]), ({2, 4}, [1, 3]), ({1, 2, 3, 4, 5}, [1])],
)
def test_requests_that_come_during_a_run_are_the_next_batch_if_callers_wait(model, left, sizes):
    """Number 0 comes alone and runs at once. The first of the others would lead the next batch."""
    model.go_on.clear()
    batcher, gone = batching(model, num_batch_threads=1, batch_timeout_micros=0), threading.Event()

    def ask(number):
        def has_left():
            return gone.is_set() and number in left

        try:
            return batcher.run({"x": row(number)}, ["y"], SECONDS, has_left)[0].item()
        except tf.errors.CancelledError:
            return "cancelled"

    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ask, 0)]
        soon(lambda: model.batches)
        for number in range(1, 6):
            calls.append(pool.submit(ask, number))
            soon(lambda number=number: batcher._rows_waiting() == number)
        gone.set()
        model.go_on.set()
        answers = [call.result(SECONDS) for call in calls]
    assert answers == ["cancelled" if n in left else 2 * n for n in range(6)]
    assert [len(x) for x in model.batches] == sizes


def test_requests_are_run_one_by_one_if_joining_them_gains_nothing(model):
    model.go_on.clear()
    batcher = batching(model, joins=False, num_batch_threads=1)
    with ThreadPoolExecutor(1) as pool:
        outputs = pool.submit(together, batcher, row(1), row(2), np.zeros((2, 1), np.float32))
        soon(lambda: batcher._rows_waiting() >= 2)
        model.go_on.set()
        assert sorted(output.sum() for output in outputs.result()) == [0, 2, 4]
    assert sorted(len(x) for x in model.batches) == [1, 1, 2]


def test_as_many_batches_run_at_once_as_keep_the_processors_busy(model):
    model.go_on.clear()
    engine = mock.Mock(run=model, runs_at_once=2, joins=True)
    servable = Servable(engine, BatchingParameters(max_batch_size=1, num_batch_threads=1))
    with ThreadPoolExecutor(3) as pool:
        for n in range(3):
            pool.submit(servable._run, {"x": row(n)}, ["y"], SECONDS)
        soon(lambda: len(model.batches) == 2)
        time.sleep(0.2)
        assert len(model.batches) == 2
        model.go_on.set()


def test_error_reaches_those_who_ran_together(batcher):
    outputs = together(batcher, row(-1), row(1), row(1, 2))
    messages = [getattr(output, "message", None) for output in outputs]
    assert messages == ["minus one", "minus one", None]


def test_request_that_waits_longer_than_its_deadline_is_refused(model):
    batcher = batching(model, batch_timeout_micros=200_000)
    [error] = together(batcher, row(1), timeout=0.05)
    assert isinstance(error, tf.errors.DeadlineExceededError)
    assert not model.batches


def test_request_whose_time_is_over_leaves_the_queue(model):
    model.go_on.clear()
    batcher = batching(model, num_batch_threads=1, batch_timeout_micros=0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(together, batcher, row(1))
        soon(lambda: model.batches)
        [error] = together(batcher, row(2), timeout=0.05)
        assert isinstance(error, tf.errors.DeadlineExceededError)
        model.go_on.set()
        running.result()
    together(batcher, row(3))
    assert [x.item() for x in model.batches] == [1, 3]


def test_run_lasts_as_long_as_the_longest_deadline(batcher, model):
    together(batcher, row(1), timeout=3)
    assert 2.5 < model.timeouts[0] < 3


@pytest.mark.parametrize(
    "feeds", [{"x": np.float32(1)}, {"x": np.zeros((2, 1)), "z": np.zeros((3, 1))}]
)
def test_inputs_without_common_rows_are_refused(model, feeds):
    with pytest.raises(tf.errors.InvalidArgumentError, match="first dimension"):
        batching(model).run({n: np.asarray(a) for n, a in feeds.items()}, ["y"], 1)


@pytest.mark.parametrize("output", [np.zeros(()), np.zeros((3, 1))])
def test_output_without_the_rows_of_its_inputs_is_refused(output):
    with pytest.raises(tf.errors.FailedPreconditionError, match="output y has shape"):
        batching(lambda *_: [output]).run({"x": row(1)}, ["y"], 1)


def test_empty_request_is_run_alone(model):
    batching(model).run({"x": np.zeros((0, 2))}, ["y"], 1)
    assert [x.shape for x in model.batches] == [(0, 2)]


def test_saved_model_with_batching(tmp_path):
    parameters = BatchingParameters(max_batch_size=8, batch_timeout_micros=SOON * 4)
    engine = TensorFlowEngine(saved_models.save_scale(tmp_path / "1"))
    engine.run = mock.Mock(wraps=engine.run)
    served = Servable(engine, parameters)

    def ask(n):
        return served.predict(predict_request({"x": np.full((1, 3), n, np.float32)}))

    def words(n):
        return served.predict(predict_request({"text": [b"%d" % n]}, signature="words"))

    with ThreadPoolExecutor(8) as pool:
        numbers, texts = pool.map(ask, range(4)), pool.map(words, range(4))
        assert [a.outputs["scaled"].float_val[0] for a in numbers] == [0, 2, 4, 6]
        assert [a.outputs["upper"].string_val[0] for a in texts] == [b"0", b"1", b"2", b"3"]
    runs = sorted(list(call.args[0]) for call in engine.run.call_args_list)
    assert runs == [["serving_default_x:0"], ["words_text:0"]]
    served.close()


# The file


def test_parameters_are_read_and_those_that_are_ignored_are_logged(tmp_path, caplog):
    file = tmp_path / "batching.config"
    file.write_text(
        "max_batch_size { value: 128 } batch_timeout_micros { value: 0 }\n"
        'max_enqueued_batches { value: 7 } num_batch_threads { value: 8 } # "#" is a comment\n'
        'thread_pool_name { value: "x" } allowed_batch_sizes: 64 allowed_batch_sizes: 128\n'
        "enable_large_batch_splitting { value: true } max_execution_batch_size { value: 64 }\n"
        "pad_variable_length_inputs: true"
    )
    assert config.read_batching_parameters(file) == BatchingParameters(
        max_batch_size=128, batch_timeout_micros=0, max_enqueued_batches=7, num_batch_threads=8
    )
    assert [line.split()[1] for line in caplog.messages] == [
        "thread_pool_name",
        "allowed_batch_sizes",
        "pad_variable_length_inputs",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    ]
    assert config.read_batching_parameters(None).max_batch_size == 1000


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("max_batch_size: 3", "batching.config"),
        ("max_batch_size { value: 0 }", "max_batch_size"),
        ("num_batch_threads { value: 0 }", "num_batch_threads"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros"),
    ],
)
def test_parameters_that_cannot_be(tmp_path, text, named):
    (tmp_path / "batching.config").write_text(text)
    with pytest.raises(tf.errors.InvalidArgumentError, match=named):
        config.read_batching_parameters(tmp_path / "batching.config")


def test_signature_of_one_size_gets_no_other(tmp_path):
    module = tf.Module()
    spec = tf.TensorSpec((1, 2), tf.float32, name="x")
    module.double = tf.function(lambda x: {"y": tf.reshape(x, (1, 2)) * 2}, input_signature=[spec])
    tf.saved_model.save(module, tmp_path / "1", signatures=module.double)
    served = Servable(
        TensorFlowEngine(tmp_path / "1"), BatchingParameters(batch_timeout_micros=SOON)
    )
    requests = [predict_request({"x": np.full((1, 2), n, np.float32)}) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(served.predict, requests))
    assert [answer.outputs["y"].float_val[0] for answer in answers] == [0, 2, 4, 6]
    served.close()
