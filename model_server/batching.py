"""Run many requests in one run of the model: batches formed by TensorFlow's own scheduler.

TensorFlow Serving uses the same scheduler. It is inside `BatchFunction`, the operation that
tf.nondifferentiable_batch_function creates. Here it decides which requests run together, and when.
What goes through it are tickets: the number of a request, once for each of its rows. The arrays
stay outside, so any signature of any SavedModel can be batched, and nothing is copied on the way.
"""

import gc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from model_server import errors
from model_server.config import BatchingParameters
from model_server.engines import Feeds

Run = Callable[[Feeds, list[str], float], list[np.ndarray]]


@dataclass
class _Ticket:
    """A request that waits to be run."""

    feeds: Feeds
    fetches: list[str]
    rows: int
    deadline: float  # as time.monotonic() counts
    outputs: list[np.ndarray] = field(default_factory=list)
    error: tf.errors.OpError | None = None

    def kind(self) -> tuple:
        """Return what requests must have in common to be run together."""
        shapes = [(name, a.dtype, a.shape[1:]) for name, a in sorted(self.feeds.items())]
        return tuple(self.fetches), *shapes


class Batcher:
    """Runs a model on batches of what many threads ask for at the same time.

    Requests that differ in inputs, outputs, dtypes or shapes (apart from the first dimension) share
    a queue, but never a run.
    """

    def __init__(self, run: Run, parameters: BatchingParameters):
        """Batch calls of `run`."""
        self._run_model = run
        self._parameters = parameters
        self._tickets: dict[int, _Ticket] = {}
        self._numbers = itertools.count()
        graph = tf.Graph()
        with graph.as_default():
            start, end = self._build_queue()
        # A thread for each batch that may run at once, and one that accepts further requests.
        config = tf.compat.v1.ConfigProto(
            inter_op_parallelism_threads=parameters.num_batch_threads + 1,
            use_per_session_threads=True,
        )
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._session._extend_graph()  # hand it over now, because `run` bypasses Session.run
        self._start, self._end = start._as_tf_output(), end._as_tf_output()

    def close(self) -> None:
        """End the batch threads. No call may be running."""
        self._session.close()
        del self._session, self._run_model, self._start, self._end
        gc.collect()  # graphs refer to themselves in cycles

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Do what the model's `run` does, together with other calls. Raises tf.errors.OpError."""
        rows = _count_rows(feeds)
        if not rows:
            return self._run_model(feeds, fetches, timeout)
        if rows > self._parameters.max_batch_size:
            raise errors.InvalidArgument(
                f"the request has {rows} rows; max_batch_size is {self._parameters.max_batch_size}"
            )
        number = next(self._numbers)
        ticket = _Ticket(feeds, fetches, rows, time.monotonic() + timeout)
        self._tickets[number] = ticket
        fed = {self._start: np.full(rows, number)}
        try:
            self._session._call_tf_sessionrun(None, fed, [self._end], [], None)
        except tf.errors.OpError as error:
            message = error.message.split("\n\t [[{{node", 1)[0]  # a node that no model has
            raise type(error)(None, None, message) from None
        finally:
            del self._tickets[number]
        if error := ticket.error:
            raise type(error)(None, None, error.message)  # a new one for each thread
        return ticket.outputs

    def _build_queue(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Add a queue to the default graph; return where ticket numbers go in and come out."""

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.int64)], autograph=False)
        def process(numbers):
            return tf.numpy_function(self._process, [numbers], tf.int64)

        numbers = tf.compat.v1.placeholder(tf.int64, (None,))
        [done] = tf.raw_ops.BatchFunction(
            in_tensors=[numbers],
            captured_tensors=[],
            f=process.get_concrete_function(),
            Tout=[tf.int64],
            num_batch_threads=self._parameters.num_batch_threads,
            max_batch_size=self._parameters.max_batch_size,
            batch_timeout_micros=self._parameters.batch_timeout_micros,
            max_enqueued_batches=self._parameters.max_enqueued_batches,
            enable_large_batch_splitting=False,  # a request is always run as a whole
        )
        return numbers, done

    def _process(self, numbers: np.ndarray) -> np.ndarray:
        """Run one batch, in as many parts as there are kinds of requests in it."""
        groups: dict[tuple, list[_Ticket]] = {}
        for number in dict.fromkeys(numbers.tolist()):
            ticket = self._tickets[number]
            groups.setdefault(ticket.kind(), []).append(ticket)
        for tickets in groups.values():
            try:
                self._run_together(tickets)
            except Exception as error:
                if not isinstance(error, tf.errors.OpError):
                    error = errors.Internal(f"{type(error).__name__}: {error}")
                for ticket in tickets:
                    ticket.error = error
        return numbers

    def _run_together(self, tickets: list[_Ticket]) -> None:
        left = max(ticket.deadline for ticket in tickets) - time.monotonic()
        if left <= 0:
            raise errors.ResourceExhausted(
                "the request's time was over while it waited in the queue"
            )
        feeds = tickets[0].feeds  # not copied where it is alone
        if len(tickets) > 1:
            feeds = {name: np.concatenate([t.feeds[name] for t in tickets]) for name in feeds}
        outputs = self._run_model(feeds, tickets[0].fetches, left)
        ends = list(itertools.accumulate(ticket.rows for ticket in tickets))
        for name, output in zip(tickets[0].fetches, outputs, strict=True):
            if output.shape[:1] != (ends[-1],):
                raise errors.FailedPrecondition(
                    f"output {name} has shape {output.shape} for {ends[-1]} rows, so a batch of "
                    "requests cannot share it; start the server without --enable_batching"
                )
        for ticket, end in zip(tickets, ends, strict=True):
            ticket.outputs = [output[end - ticket.rows : end] for output in outputs]


def _count_rows(feeds: Feeds) -> int:
    sizes = {array.shape[:1] for array in feeds.values()}
    if len(sizes) > 1 or () in sizes:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(feeds.items()))
        raise errors.InvalidArgument(
            f"with batching, all inputs need the same first dimension; got {shapes}"
        )
    return sizes.pop()[0] if sizes else 0
