"""Run many requests in one run of the model.

There are no threads for this: the thread of the first request that waits gathers a batch and runs
it, while those of the others sleep until they have their answers. So a request that comes alone
does not wait, and a server without requests does nothing.
"""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from model_server import errors
from model_server.config import BatchingParameters
from model_server.engines import Feeds

_TOO_LATE = "the request's time was over while it waited in the queue"
_LEFT = "the caller left while the request waited in the queue"

Run = Callable[[Feeds, list[str], float], list[np.ndarray]]
Left = Callable[[], bool]  # whether the caller has left


@dataclass(eq=False)
class _Request:
    """A request that waits to be run."""

    feeds: Feeds
    fetches: list[str]
    rows: int
    since: float  # as time.monotonic() counts
    timeout: float
    left: Left
    turn: threading.Event = field(default_factory=threading.Event)  # it is answered, or leads
    leads: bool = False  # its thread runs the next batch
    outputs: list[np.ndarray] = field(default_factory=list)
    error: tf.errors.OpError | None = None

    def seconds_left(self) -> float:
        """Return the seconds until the deadline, negative after it."""
        return self.since + self.timeout - time.monotonic()

    def kind(self) -> tuple:
        """Return what requests must have in common to be run together."""
        shapes = [(name, a.dtype, a.shape[1:]) for name, a in sorted(self.feeds.items())]
        return tuple(self.fetches), *shapes


class Batcher:
    """Runs a model on batches of what many threads ask for at the same time.

    Requests that differ in inputs, outputs, dtypes or shapes (apart from the first dimension) share
    a queue, but never a run.
    """

    def __init__(self, run: Run, parameters: BatchingParameters, *, joins: bool = True):
        """Batch calls of `run`; without `joins`, they only queue for it."""
        self._run_model = run
        self._joins = joins
        self._parameters = parameters
        self._most_rows = parameters.max_enqueued_batches * parameters.max_batch_size
        self._changed = threading.Condition()
        self._waiting: list[_Request] = []
        self._led = False  # whether the first of them gathers a batch
        self._running = 0  # batches

    def run(
        self, feeds: Feeds, fetches: list[str], timeout: float, left: Left = lambda: False
    ) -> list[np.ndarray]:
        """Do what the model's `run` does, together with other calls. Raises tf.errors.OpError.

        A request whose caller has left when a batch is gathered is not run.
        """
        rows = _count_rows(feeds)
        if not rows:
            return self._run_model(feeds, fetches, timeout)
        if rows > self._parameters.max_batch_size:
            raise errors.InvalidArgument(
                f"the request has {rows} rows; max_batch_size is {self._parameters.max_batch_size}"
            )
        request = _Request(feeds, fetches, rows, time.monotonic(), timeout, left)
        with self._changed:
            if rows + self._rows_waiting() > self._most_rows:
                raise errors.Unavailable("the queue of requests that wait for a batch is full")
            self._waiting.append(request)
            self._changed.notify()
            self._appoint_leader()
        request.turn.wait(min(timeout, threading.TIMEOUT_MAX))
        with self._changed:
            if request in self._waiting and not request.leads:
                self._waiting.remove(request)
                raise errors.DeadlineExceeded(_TOO_LATE)
        if request.leads:
            self._run_batch()
        request.turn.wait()
        if error := request.error:
            raise type(error)(None, None, error.message)  # a new one for each thread
        return request.outputs

    def _rows_waiting(self) -> int:
        return sum(request.rows for request in self._waiting)

    def _appoint_leader(self) -> None:
        """Let the first request that waits gather a batch, if one more may run."""
        may_run = self._running < self._parameters.num_batch_threads
        if self._waiting and may_run and not self._led:
            self._led = True
            self._waiting[0].leads = True
            self._waiting[0].turn.set()

    def _run_batch(self) -> None:
        """Gather a batch and run it, in the thread of its first request."""
        with self._changed:
            batch = self._gather()
            self._led = False
            self._running += 1
            self._appoint_leader()
        try:
            if batch:
                self._run_together(batch)
        except Exception as error:
            if not isinstance(error, tf.errors.OpError):
                error = errors.Internal(f"{type(error).__name__}: {error}")
            for request in batch:
                request.error = error
        with self._changed:
            self._running -= 1
            self._appoint_leader()
        for request in batch:
            request.turn.set()

    def _gather(self) -> list[_Request]:
        """Wait until a batch is full or its time has come; take it out of the queue."""
        if not self._joins:
            self._dismiss()
            return [self._waiting.pop(0)] if self._waiting else []
        room = self._parameters.max_batch_size
        start = self._waiting[0].since + self._parameters.batch_timeout_micros / 1e6
        left = self._waiting[0].seconds_left()
        most = min(start - time.monotonic(), left, threading.TIMEOUT_MAX)
        self._changed.wait_for(lambda: self._rows_waiting() >= room, most)
        self._dismiss()
        batch: list[_Request] = []
        for request in self._waiting:
            if request.kind() == self._waiting[0].kind():
                if request.rows > room:
                    break
                room -= request.rows
                batch.append(request)
        self._waiting = [request for request in self._waiting if request not in batch]
        return batch

    def _dismiss(self) -> None:
        """End the requests in the queue whose callers have left."""
        for request in [request for request in self._waiting if request.left()]:
            self._waiting.remove(request)
            request.error = errors.Cancelled(_LEFT)
            request.turn.set()

    def _run_together(self, batch: list[_Request]) -> None:
        left = max(request.seconds_left() for request in batch)
        if left <= 0:
            raise errors.DeadlineExceeded(_TOO_LATE)
        feeds = batch[0].feeds  # not copied where it is alone
        if len(batch) > 1:
            feeds = {name: np.concatenate([each.feeds[name] for each in batch]) for name in feeds}
        outputs = self._run_model(feeds, batch[0].fetches, left)
        ends = list(itertools.accumulate(request.rows for request in batch))
        for name, output in zip(batch[0].fetches, outputs, strict=True):
            if output.shape[:1] != (ends[-1],):
                raise errors.FailedPrecondition(
                    f"output {name} has shape {output.shape} for {ends[-1]} rows, so a batch of "
                    "requests cannot share it; start the server without --enable_batching"
                )
        for request, end in zip(batch, ends, strict=True):
            request.outputs = [output[end - request.rows : end] for output in outputs]


def _count_rows(feeds: Feeds) -> int:
    sizes = {array.shape[:1] for array in feeds.values()}
    if len(sizes) > 1 or () in sizes:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(feeds.items()))
        raise errors.InvalidArgument(
            f"with batching, all inputs need the same first dimension; got {shapes}"
        )
    return sizes.pop()[0] if sizes else 0
