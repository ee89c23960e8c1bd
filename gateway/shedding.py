"""Refuse at once what is more than a gateway can do, and what does not come in whole.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.wsgi import ClosingIterator

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Shedding:
    """A WSGI app that hands on at most so many requests at once, and the others to a refusal."""

    def __init__(self, app: WsgiApp, refusal: WsgiApp, *, most: int) -> None:
        """Both are WSGI apps; the refusal should be quick, and leave the request's body unread."""
        self._app, self._refusal, self._most = app, refusal, most
        self._lock = threading.Lock()
        self.in_flight = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """Handle one request."""
        with self._lock:
            full = self.in_flight >= self._most
            self.in_flight += not full
        if full:
            return self._refusal(environ, start_response)
        try:
            return ClosingIterator(self._app(environ, start_response), self._leave)
        except BaseException:
            self._leave()
            raise

    def _leave(self) -> None:
        with self._lock:
            self.in_flight -= 1
