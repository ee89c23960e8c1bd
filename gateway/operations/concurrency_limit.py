"""Limit how many requests are handled at once; answer 503 to the rest."""

import threading

from flask import Flask, Response, g

from gateway.errors import BusyError


class ConcurrencyLimit:
    """Let an app handle at most `most` requests at once."""

    def __init__(self, app: Flask, *, most: int) -> None:
        """Add the limit to `app`. A refused request raises BusyError, and its body stays unread."""
        self.in_flight, self._most, self._lock = 0, most, threading.Lock()
        app.before_request(self._enter)
        app.after_request(self._leave_at_the_end)

    def _enter(self) -> None:
        with self._lock:
            if self.in_flight >= self._most:
                raise BusyError("too many requests at once")
            self.in_flight += 1
            g.in_flight = True

    def _leave_at_the_end(self, response: Response) -> Response:
        if "in_flight" in g:
            response.direct_passthrough = False  # a file passed through is never closed
            response.call_on_close(self._leave)
        return response

    def _leave(self) -> None:
        with self._lock:
            self.in_flight -= 1
