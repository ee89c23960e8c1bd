"""Limit how many requests are handled at once; answer 503 to the rest."""

import threading
import time
from functools import partial
from math import inf
from typing import Any

from flask import Flask, Response, g, request

from gateway.errors import BusyError
from gateway.problems import GAVE_UP

FEWEST = 2  # the lowest limit
FEW = 8  # that many are let in even if the model is slow; fewer do not show how fast it can be
NEWS = 0.1  # what one request counts in an average
SHRINK = 0.9  # what a caller who gave up leaves of the limit
GROW = 0.25  # by how much as many answers as the limit raise it
SOON = 0.7  # of the callers' patience; an answer that takes longer does not raise the limit
FORGET = 1.0005  # by how much the patience grows with each answer: callers may have changed
GLANCE = 0.05  # seconds; a caller who leaves sooner did not wait in a queue
QUIET = 60.0  # seconds without news, after which all that was learned is old


class ConcurrencyLimit:
    """Let an app handle at most `most` requests at once, fewer if they would not end in time.

    Work that ends too late is wasted. A shorter queue serves as many in time, and refuses the
    others at once. Two things tell how many that are:

    - How fast answers come. By Little's law, a request that took w seconds while n were in flight
      shows that answers come every w / n seconds. The patience divided by that can be in flight.
    - Callers who give up. Each lowers the limit and the patience. Each answer that came well before
      that time raises the limit a little.

    The time of a request counts from the start of its decoding: uploads and downloads wait for
    nothing here.
    """

    def __init__(self, app: Flask, *, most: int, patience: float = 3.0) -> None:
        """Add the limit to `app`. A refused request raises BusyError, and its body stays unread.

        `patience` is the seconds after which an answer is too late, until callers give up sooner.
        """
        self.in_flight, self._most, self._longest = 0, most, patience
        self._lock = threading.Lock()
        self._forget()
        app.before_request(self._enter)
        app.after_request(self._leave_at_the_end)

    def _forget(self) -> None:
        self._let_in = float(self._most)  # before it counts how fast answers come
        self._patience = self._longest
        self._interval = 0.0  # seconds between two answers under load; 0: not known
        self._news = time.monotonic()

    @property
    def limit(self) -> float:
        """Return how many requests may be in flight now."""
        in_time = SOON * self._patience / self._interval if self._interval else inf
        return min(self._let_in, max(FEW, in_time))

    def _enter(self) -> None:
        with self._lock:
            if time.monotonic() > self._news + QUIET:
                self._forget()
            if self.in_flight >= self.limit:
                raise BusyError("too many requests at once")
            self.in_flight += 1
            g.entered_as = self.in_flight

    def _leave_at_the_end(self, response: Response) -> Response:
        if entered_as := g.get("entered_as"):
            response.direct_passthrough = False  # a file passed through is never closed
            leave = partial(self._leave, request.environ, response.status_code, entered_as)
            response.call_on_close(leave)
        return response

    def _leave(self, environ: dict[str, Any], status: int, in_flight: int) -> None:
        stages = environ.get("gateway.stages", {})
        waited = stages.get("decode", 0.0) + stages.get("model", 0.0)
        gave_up = environ.get("gateway.reason") in GAVE_UP
        with self._lock:
            self.in_flight -= 1
            if gave_up and waited > GLANCE:
                lower = max(FEWEST, self.in_flight / 2, SHRINK * self.limit)
                self._let_in = min(self._let_in, lower)
                self._patience = min(self._longest, average(self._patience, waited))
                self._news = time.monotonic()
            elif status < 400 and "model" in stages:
                self._patience = min(self._longest, FORGET * self._patience)
                if waited < SOON * self._patience:
                    self._let_in = min(self._most, self._let_in + GROW / self._let_in)
                if in_flight >= FEW and "fetch" not in stages:
                    interval = waited / in_flight
                    self._interval = average(self._interval or interval, interval)
                    self._news = time.monotonic()


def average(value: float, news: float) -> float:
    """Return the moving average of a value after `news` of it."""
    return value + NEWS * (news - value)
