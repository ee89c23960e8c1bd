"""End the calls of callers who left, and count the work that this saves."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any

import grpc
from flask import has_request_context

from gateway.deadline import Deadline
from gateway.incoming import caller_left
from gateway.operations.metrics import Metrics
from gateway.problems import GAVE_UP

STAGES = ("wait", "fetch", "decode", "model")  # in the order of a request


class CancellableChannel:
    """Wrap a channel: a call of it ends when the caller of the current request leaves."""

    def __init__(self, channel: Callable[[], grpc.Channel]) -> None:
        """Take a function that returns the channel; it is called at the first use."""
        self._channel = channel

    def __call__(self) -> "CancellableChannel":
        """Return itself, as a ModelClient's `channel` returns a channel."""
        return self

    def __getattr__(self, name: str) -> Any:
        """Return the channel's attribute."""
        return getattr(self._channel(), name)

    def unary_unary(self, *args: Any, **options: Any) -> Callable:
        """Return a function that calls a method, as the channel's `unary_unary`."""
        return partial(self._call, self._channel().unary_unary(*args, **options))

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any, *, timeout: float) -> Any:
        if not has_request_context():  # no caller who could leave
            return method(request, timeout=timeout)
        return result(method.future(request, timeout=timeout))


def result(call: grpc.Future) -> Any:
    """Return the answer of a call; cancel it and raise CallerLeftError if the caller leaves."""
    try:
        for seconds in Deadline(inf, caller_left()).waits():  # the call has its own timeout
            with suppress(grpc.FutureTimeoutError):
                return call.result(seconds)
    finally:
        call.cancel()  # which does nothing to one that has ended


class CancelledWork:
    """Count requests that ended before their answer, and the seconds of their stages."""

    def __init__(self, metrics: Metrics) -> None:
        """Start without a request."""
        self._metrics = metrics
        self._least: dict[str, float] = {}  # seconds of each stage: without waiting, nearly

    def count(self, stages: Mapping[str, float], reason: str) -> None:
        """Count one request; `stages` has the seconds that each of its stages took, in order."""
        if reason in GAVE_UP and stages:
            at = next(stage for stage in reversed(STAGES) if stage in stages)
            self._metrics.cancelled.labels(at, reason).inc()
            self._metrics.cancelled_seconds.labels("wasted").inc(sum(stages.values()))
            left_out = STAGES[STAGES.index(at) :]
            saved = sum(self._least.get(stage, 0.0) for stage in left_out)
            self._metrics.cancelled_seconds.labels("saved").inc(saved)
        elif not reason:
            for stage, took in stages.items():
                self._least[stage] = min(took, self._least.get(stage, took))
