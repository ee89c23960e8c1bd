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


class ConcurrencyLimit:
    """Let an app handle at most `most` requests at once, fewer while callers give up waiting.

    Work for callers who give up is wasted. When some do, the queue is too long for them: a shorter
    one serves as many in time, and refuses the others at once. So each caller who gave up lowers
    the limit, and each answer that came well before that time raises it a little. TCP treats lost
    and received packets in this way.
    """

    def __init__(self, app: Flask, *, most: int) -> None:
        """Add the limit to `app`. A refused request raises BusyError, and its body stays unread."""
        self.in_flight, self._most, self._lock = 0, most, threading.Lock()
        self.limit, self._patience = float(most), inf  # seconds that callers wait
        app.before_request(self._enter)
        app.after_request(self._leave_at_the_end)

    def _enter(self) -> None:
        with self._lock:
            if self.in_flight >= self.limit:
                raise BusyError("too many requests at once")
            self.in_flight += 1
            g.in_flight_since = time.monotonic()

    def _leave_at_the_end(self, response: Response) -> Response:
        if since := g.get("in_flight_since"):
            response.direct_passthrough = False  # a file passed through is never closed
            leave = partial(self._leave, request.environ, response.status_code, since)
            response.call_on_close(leave)
        return response

    def _leave(self, environ: dict[str, Any], status: int, since: float) -> None:
        queued = "decode" in environ.get("gateway.stages", ())  # after what it had to fetch
        gave_up = queued and environ.get("gateway.reason") in GAVE_UP
        seconds = time.monotonic() - since
        with self._lock:
            self.in_flight -= 1
            if gave_up:
                self._patience = min(seconds, self._patience)
                self.limit = max(FEWEST, self.in_flight / 2, SHRINK * self.limit)
            elif status < 400:
                self._patience *= FORGET
                if seconds < SOON * self._patience:
                    self.limit = min(self._most, self.limit + GROW / self.limit)
