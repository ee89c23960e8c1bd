"""Answer /livez, /readyz and /metrics on their own port, in their own threads."""

import logging
import math
import socket
import threading
import time
from collections.abc import Callable

from flask import Flask, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

log = logging.getLogger(__name__)


class Readiness:
    """Remember for MAX_AGE seconds whether a check passes; log changes. Threads can share it."""

    MAX_AGE = 2.0  # seconds
    FAILURES = 3  # in a row that make a ready gateway unready

    def __init__(self, check: Callable[[], object], *, of: str) -> None:
        """Take a function that raises if something is wrong, and what it is about, for the log.

        The function is not called yet.
        """
        self._check, self._lock = check, threading.Lock()
        self._of, self._logged = of, ""
        self._checked = -math.inf
        self._failures = self.FAILURES  # not ready before the first check has passed
        self._error: Exception | None = None

    def confirm(self) -> None:
        """Return if ready; otherwise raise what the last check raised."""
        with self._lock:
            if time.monotonic() - self._checked > self.MAX_AGE:
                self._run_check()
            if self._failures >= self.FAILURES:
                raise self._error.with_traceback(None)

    def _run_check(self) -> None:
        try:
            self._check()
        except Exception as error:  # any error means: not ready
            self._error, self._failures = error, self._failures + 1
        else:
            self._failures = 0
        self._checked = time.monotonic()
        level, state = logging.INFO, "ready"
        if self._failures >= self.FAILURES:
            details = getattr(self._error, "details", str)()  # of gRPC's errors
            level, state = logging.WARNING, f"not ready: {in_words(self._error)} {details}".strip()
        if state != self._logged:
            log.log(level, "%s: %s", self._of, state)
            self._logged = state


def create_admin(
    readiness: Readiness, registry: CollectorRegistry, draining: Callable[[], bool]
) -> Flask:
    """Return the app for operators; `draining` says whether the gateway is shutting down."""
    admin = Flask("gateway.admin", static_folder=None)

    @admin.get("/livez")
    def livez() -> dict[str, str]:
        return {"status": "alive"}

    @admin.get("/readyz")
    def readyz() -> tuple[dict[str, str], int]:
        if draining():
            return {"status": "not ready: shutting down"}, 503
        try:
            readiness.confirm()
        except Exception as error:
            return {"status": f"not ready: {in_words(error)}"}, 503
        return {"status": "ready"}, 200

    @admin.get("/metrics")
    def metrics() -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    return admin


def in_words(error: Exception) -> str:
    """Return one line about an error; of gRPC's errors, the status code."""
    code = getattr(error, "code", None)
    return code().name if callable(code) else str(error) or type(error).__name__


class QuietHandler(WSGIRequestHandler):
    """Wait at most 5 seconds for a request, and log nothing: probes come all the time."""

    timeout = 5
    protocol_version = "HTTP/1.1"

    def version_string(self) -> str:
        """Return the header Server, without versions."""
        return "gateway"

    def log(self, *_: object) -> None:
        """Log nothing."""


def serve(admin: Flask, listener: socket.socket) -> BaseWSGIServer:
    """Answer on a listening socket, in threads that end with the process."""
    host, port = listener.getsockname()[:2]
    server = make_server(
        host, port, admin, threaded=True, request_handler=QuietHandler, fd=listener.fileno()
    )
    threading.Thread(target=server.serve_forever, name="admin", daemon=True).start()
    return server
