"""Whether a gateway is alive and ready, and its metrics, on a port and in threads of their own.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import http.server
import json
import math
import socket
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest


class DrainingError(Exception):
    """The gateway has been told to end, and takes no more requests."""


class Readiness:
    """Whether a check passes, as of at most MAX_AGE seconds ago; safe to share by threads."""

    MAX_AGE = 2.0  # seconds
    FAILURES = 3  # in a row, before what was ready is so no more

    def __init__(self, check: Callable[[], object]) -> None:
        """Take a function that raises where something is wrong; it is not called yet."""
        self._check = check
        self._lock = threading.Lock()
        self._checked = -math.inf
        self._failures = self.FAILURES  # not ready before the first check has passed
        self._error: Exception | None = None

    def confirm(self) -> None:
        """Return where ready; otherwise raise what the last check raised."""
        with self._lock:
            if time.monotonic() - self._checked > self.MAX_AGE:
                self._look()
            if self._failures >= self.FAILURES and self._error:
                raise self._error.with_traceback(None)

    def _look(self) -> None:
        try:
            self._check()
        except Exception as error:  # of whatever kind: not ready
            self._error, self._failures = error, self._failures + 1
        else:
            self._error, self._failures = None, 0
        self._checked = time.monotonic()


class Admin:
    """What is asked of a gateway by those who run it."""

    def __init__(
        self, readiness: Readiness, registry: CollectorRegistry, draining: Callable[[], bool]
    ) -> None:
        """`draining`: whether the gateway was told to end."""
        self._readiness, self._registry, self._draining = readiness, registry, draining

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body for GET on a path."""
        match path.partition("?")[0]:
            case "/livez":
                return self._state(HTTPStatus.OK, "alive")
            case "/readyz":
                return self._ready()
            case "/metrics":
                return HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(self._registry)
            case _:
                return self._state(HTTPStatus.NOT_FOUND, "here are /livez, /readyz and /metrics")

    def _ready(self) -> tuple[HTTPStatus, str, bytes]:
        try:
            if self._draining():
                raise DrainingError("told to end")
            self._readiness.confirm()
        except Exception as error:
            return self._state(HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {_words(error)}")
        return self._state(HTTPStatus.OK, "ready")

    def _state(self, status: HTTPStatus, state: str) -> tuple[HTTPStatus, str, bytes]:
        return status, "application/json", json.dumps({"status": state}).encode()


def _words(error: Exception) -> str:
    code = getattr(error, "code", None)  # gRPC's errors say little else in a line
    return code().name if callable(code) else str(error) or type(error).__name__


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """Say nothing of a prober that hangs up early; the rest as ever."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, address)


def serve(admin: Admin, listener: socket.socket) -> http.server.ThreadingHTTPServer:
    """Answer on a listening socket, in threads that end with the process."""

    class Handler(http.server.BaseHTTPRequestHandler):
        timeout = 5  # seconds for a request to come in
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = admin.answer(self.path)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Keep quiet: probes come every few seconds."""

    server = _Server(listener.getsockname()[:2], Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
    return server
