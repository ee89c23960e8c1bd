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
SHRINK = 0.9  # what a caller who gave up leaves of the limit
GROW = 0.25  # by how much as many answers as the limit raise it
SOON = 0.7  # of the callers' patience; an answer that takes longer does not raise the limit
FORGET = 1.0005  # by how much the patience grows with each answer: callers may have changed
NEWS = 0.1  # what an answer counts in the average of the rate
FEW = 8  # requests that are let in, however slow the model; fewer do not show how fast it is


class ConcurrencyLimit:
    """Let an app handle at most `most` requests at once, fewer if they would not end in time.

    Work that ends too late is wasted. A shorter queue serves as many in time, and refuses the
    others at once. Two things tell how many that are:

    - How fast answers come. Of Little's law, a request that took w seconds while n were in flight
      shows a rate of n / w, and rate times patience is how many can be served in time.
    - Callers who give up. Each lowers the limit, and each answer that came well before that time
      raises it a little. TCP treats lost and received packets in this way.
    """

    def __init__(self, app: Flask, *, most: int, patience: float = inf) -> None:
        """Add the limit to `app`. A refused request raises BusyError, and its body stays unread.

        `patience` is the seconds after which an answer is too late, until callers give up sooner.
        """
        self.in_flight, self._most, self._lock = 0, most, threading.Lock()
        self._longest = self._patience = patience
        self._rate: float | None = None  # answers a second
        self._let_in = float(most)  # what callers who give up leave of it
        app.before_request(self._enter)
        app.after_request(self._leave_at_the_end)

    def _enter(self) -> None:
        with self._lock:
            if self.in_flight >= self.limit:
                raise BusyError("too many requests at once")
            self.in_flight += 1
            g.entered = time.monotonic(), self.in_flight

    @property
    def limit(self) -> float:
        """Return how many requests may be in flight now."""
        if self._rate is None:
            return self._let_in
        return min(self._let_in, max(FEW, SOON * self._patience * self._rate))

    def _leave_at_the_end(self, response: Response) -> Response:
        if entered := g.get("entered"):
            response.direct_passthrough = False  # a file passed through is never closed
            leave = partial(self._leave, request.environ, response.status_code, *entered)
            response.call_on_close(leave)
        return response

    def _leave(self, environ: dict[str, Any], status: int, since: float, in_flight: int) -> None:
        stages = environ.get("gateway.stages", {})
        queued = "decode" in stages  # after what it had to fetch
        gave_up = queued and environ.get("gateway.reason") in GAVE_UP
        seconds = time.monotonic() - since
        with self._lock:
            self.in_flight -= 1
            if gave_up:
                self._patience = min(seconds, self._patience)
                self._let_in = max(FEWEST, self.in_flight / 2, SHRINK * self._let_in)
            elif status < 400:
                self._patience = min(self._longest, FORGET * self._patience)
                if seconds < SOON * self._patience:
                    self._let_in = min(self._most, self._let_in + GROW / self._let_in)
                if "model" in stages and in_flight >= FEW:
                    rate = in_flight / (stages["decode"] + stages["model"])
                    self._rate = rate + (1 - NEWS) * ((self._rate or rate) - rate)
