"""Many requests, one run of the model: batches formed by TensorFlow's own scheduler.

That scheduler, the one TensorFlow Serving uses, is inside `BatchFunction`, the operation that
tf.nondifferentiable_batch_function creates. Here it decides who runs with whom and when: what goes
through it are tickets, one row for each row of a request. The arrays themselves stay outside, so
that any signature of any SavedModel can be batched, and nothing is copied on the way.
"""

import gc
import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from model_server import errors
from model_server.config import BatchingParameters

Feeds = dict[str, np.ndarray]
Run = Callable[[Feeds, list[str], float], list[np.ndarray]]


@dataclass
class _Ticket:
    """A request that waits for its rows to be run."""

    feeds: Feeds
    fetches: list[str]
    deadline: float  # as time.monotonic() counts
    outputs: dict[int, list[np.ndarray]] = field(default_factory=dict)  # by their first row
    error: tf.errors.OpError | None = None


class Batcher:
    """Runs a model on batches of what many threads ask for at the same time.

    Each set of inputs has a queue of its own. Requests that differ in outputs, dtypes or shapes
    (apart from the first dimension) are never run together.
    """

    def __init__(
        self, run: Run, parameters: BatchingParameters, input_sets: Iterable[frozenset[str]]
    ):
        """Batch calls of `run`, with a queue for each set of names that is fed together."""
        self._run_model = run
        self._parameters = parameters
        self._tickets: dict[int, _Ticket] = {}
        self._numbers = itertools.count()
        graph = tf.Graph()
        with graph.as_default():
            ends = {inputs: self._build_queue() for inputs in set(input_sets)}
        # A thread for each batch that may run at once, and one that lets further requests in.
        config = tf.compat.v1.ConfigProto(
            inter_op_parallelism_threads=parameters.num_batch_threads + 1,
            use_per_session_threads=True,
        )
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._session._extend_graph()  # hand it over now, because `run` goes around Session.run
        self._queues = {
            inputs: (start._as_tf_output(), end._as_tf_output())
            for inputs, (start, end) in ends.items()
        }

    def close(self) -> None:
        """End the batch threads. No call may be running."""
        self._queues.clear()
        self._session.close()
        del self._session, self._run_model
        gc.collect()

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Do what the model's own `run` does, together with others. Raises tf.errors.OpError."""
        rows = _count_rows(feeds)
        queue = self._queues.get(frozenset(feeds))
        if queue is None or not rows:
            return self._run_model(feeds, fetches, timeout)
        if rows > self._parameters.max_batch_size:  # said here too: there is no need for the rows
            raise errors.InvalidArgument(
                f"Task size {rows} is larger than maximum input batch size "
                f"{self._parameters.max_batch_size}"
            )
        number = next(self._numbers)
        ticket = self._tickets[number] = _Ticket(feeds, fetches, time.monotonic() + timeout)
        try:
            start, end = queue
            numbered = np.stack([np.full(rows, number), np.arange(rows)], axis=1)
            self._session._call_tf_sessionrun(None, {start: numbered}, [end], [], None)
        except tf.errors.OpError as error:
            message = error.message.split("\n\t [[{{node", 1)[0]  # a node that no model has
            raise type(error)(None, None, message) from None
        finally:
            del self._tickets[number]
        if error := ticket.error:
            raise type(error)(None, None, error.message)  # one of its own for each thread
        parts = [ticket.outputs[start] for start in sorted(ticket.outputs)]
        return (
            parts[0] if len(parts) == 1 else [np.concatenate(p) for p in zip(*parts, strict=True)]
        )

    def _build_queue(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Add a queue to the default graph: rows of (ticket, row of its request) in and out."""
        p = self._parameters

        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int64)], autograph=False)
        def process(rows):
            return tf.numpy_function(self._process, [rows], tf.int64)

        rows = tf.compat.v1.placeholder(tf.int64, (None, 2))
        [done] = tf.raw_ops.BatchFunction(
            in_tensors=[rows],
            captured_tensors=[],
            f=process.get_concrete_function(),
            Tout=[tf.int64],
            num_batch_threads=p.num_batch_threads,
            max_batch_size=p.max_batch_size,
            batch_timeout_micros=p.batch_timeout_micros,
            max_enqueued_batches=p.max_enqueued_batches,
            # Only the size of the parts of a split request: `_fill_up` does the filling up.
            allowed_batch_sizes=(
                [p.max_execution_batch_size or p.max_batch_size]
                if p.enable_large_batch_splitting
                else []
            ),
            enable_large_batch_splitting=p.enable_large_batch_splitting,
        )
        return rows, done

    def _process(self, rows: np.ndarray) -> np.ndarray:
        """Run one batch, in as many parts as there are kinds of requests in it."""
        groups: dict[tuple, list[tuple[_Ticket, slice]]] = {}
        seen = set()
        for number, run in itertools.groupby(rows.tolist(), key=lambda row: row[0]):
            numbers = [row for _, row in run]
            if (number, numbers[0]) in seen:  # the scheduler's own filling up repeats a row
                continue
            seen.add((number, numbers[0]))
            ticket = self._tickets[number]
            part = slice(numbers[0], max(numbers) + 1)
            groups.setdefault(self._kind(ticket), []).append((ticket, part))
        for group in groups.values():
            try:
                self._run_group(group)
            except tf.errors.OpError as error:
                for ticket, _ in group:
                    ticket.error = error
            except Exception as error:
                for ticket, _ in group:
                    ticket.error = errors.Internal(f"{type(error).__name__}: {error}")
        return rows

    def _kind(self, ticket: _Ticket) -> tuple:
        """Return what requests must have in common to be run together."""
        pad = self._parameters.pad_variable_length_inputs
        shapes = [
            (name, array.dtype, array.ndim if pad else array.shape[1:])
            for name, array in sorted(ticket.feeds.items())
        ]
        return tuple(ticket.fetches), *shapes

    def _run_group(self, group: list[tuple[_Ticket, slice]]) -> None:
        deadline = max(ticket.deadline for ticket, _ in group)
        left = deadline - time.monotonic()
        if left <= 0:
            raise errors.ResourceExhausted("Run() timeout exceeded while waiting in batching queue")
        fetches = group[0][0].fetches
        feeds = {
            name: self._fill_up(_join([ticket.feeds[name][part] for ticket, part in group]), group)
            for name in group[0][0].feeds
        }
        outputs = self._run_model(feeds, fetches, left)
        rows = len(next(iter(feeds.values())))
        for output in outputs:
            if not output.ndim:
                raise errors.FailedPrecondition("Batched output tensor has 0 dimensions")
            if len(output) != rows:
                raise errors.FailedPrecondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors"
                )
        start = 0
        for ticket, part in group:
            end = start + part.stop - part.start
            ticket.outputs[part.start] = [output[start:end] for output in outputs]
            start = end

    def _fill_up(self, array: np.ndarray, group: list[tuple[_Ticket, slice]]) -> np.ndarray:
        """Repeat a row, which must be a valid input, until the batch has an allowed size."""
        sizes = [size for size in self._parameters.allowed_batch_sizes if size >= len(array)]
        if not sizes or sizes[0] == len(array):
            return array
        last = group[-1][1]
        row = array[len(array) - (last.stop - last.start)]
        return np.concatenate([array, np.repeat(row[None], sizes[0] - len(array), axis=0)])


def _count_rows(feeds: Feeds) -> int:
    if not feeds:
        return 0
    if not all(array.ndim for array in feeds.values()):
        raise errors.InvalidArgument(
            "Batching Run() input tensors must have at least one dimension"
        )
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise errors.InvalidArgument(
            "Batching Run() input tensors must have equal 0th-dimension size"
        )
    return sizes.pop()


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    """Concatenate arrays of one dtype; fill up those that are shorter in some dimension."""
    if len(arrays) == 1:
        return arrays[0]
    longest = np.max([array.shape[1:] for array in arrays], axis=0)
    if any(array.shape[1:] != tuple(longest) for array in arrays):
        empty = b"" if arrays[0].dtype == object else 0
        arrays = [
            np.pad(
                array,
                [
                    (0, 0),
                    *(
                        (0, int(most - size))
                        for most, size in zip(longest, array.shape[1:], strict=True)
                    ),
                ],
                constant_values=empty,
            )
            for array in arrays
        ]
    return np.concatenate(arrays)
