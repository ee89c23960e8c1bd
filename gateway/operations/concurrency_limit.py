"""Limit how many requests are handled at once; answer 503 to the rest."""

import threading
from functools import partial
from typing import Any

from flask import Flask, Response, g, request

from gateway.errors import BusyError
from gateway.problems import GAVE_UP

SHRINK = 0.9  # what a caller who gave up leaves of the limit
GROW = 0.5  # by how much as many answers as the limit raise it
FEWEST = 2  # the lowest limit


class ConcurrencyLimit:
    """Let an app handle at most `most` requests at once, fewer while callers give up waiting.

    Work for callers who give up is wasted. When some do, the queue is too long for them: a shorter
    one serves as many in time, and refuses the others at once. So each caller who gave up lowers
    the limit, and each answer raises it a little, as TCP does with lost and received packets.
    """

    def __init__(self, app: Flask, *, most: int) -> None:
        """Add the limit to `app`. A refused request raises BusyError, and its body stays unread."""
        self.in_flight, self._most, self._lock = 0, most, threading.Lock()
        self.limit = float(most)
        app.before_request(self._enter)
        app.after_request(self._leave_at_the_end)

    def _enter(self) -> None:
        with self._lock:
            if self.in_flight >= self.limit:
                raise BusyError("too many requests at once")
            self.in_flight += 1
            g.in_flight = True

    def _leave_at_the_end(self, response: Response) -> Response:
        if "in_flight" in g:
            response.direct_passthrough = False  # a file passed through is never closed
            response.call_on_close(partial(self._leave, request.environ, response.status_code))
        return response

    def _leave(self, environ: dict[str, Any], status: int) -> None:
        queued = "decode" in environ.get("gateway.stages", ())  # after what it had to fetch
        with self._lock:
            self.in_flight -= 1
            if queued and environ.get("gateway.reason") in GAVE_UP:
                self.limit = max(FEWEST, SHRINK * self.limit)
            elif status < 400:
                self.limit = min(self._most, self.limit + GROW / self.limit)
