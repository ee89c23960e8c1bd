"""Join the app and what keeps it standing: the gateway as gunicorn runs it.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import ClientDisconnected
from werkzeug.wsgi import ClosingIterator

from gateway import tracing
from gateway.app import create_app
from gateway.health import Readiness
from gateway.logs import choose_id, request_id
from gateway.metrics import Metrics, reason
from gateway.problems import Problem
from gateway.settings import Settings
from gateway.shedding import Shedding, WsgiApp

CHECK_SECONDS = 0.8  # for the model's part of /readyz; a cluster's probe waits for one second
log = logging.getLogger("gateway.requests")


class Watching:
    """A WSGI app that gives each request its id, and counts and logs how it ended."""

    def __init__(self, app: WsgiApp, metrics: Metrics, paths: frozenset[str]) -> None:
        """`paths` are counted by their names, all others as "other"."""
        self._app, self._metrics, self._paths = app, metrics, paths

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """Handle one request."""
        begun, said = time.monotonic(), ["500"]
        environ["gateway.stages"], environ["gateway.reason"] = {}, None
        environ["HTTP_X_REQUEST_ID"] = current = choose_id(environ.get("HTTP_X_REQUEST_ID"))
        request_id.set(current)
        if environ.get("CONTENT_LENGTH"):  # let Werkzeug count, and see what ends too soon
            environ.pop("wsgi.input_terminated", None)

        def start(status: str, headers: list, *rest: Any) -> Callable:
            said[0] = status
            return start_response(status, [*headers, ("X-Request-ID", current)], *rest)

        def finish() -> None:
            self._finish(environ, int(said[0].split()[0]), time.monotonic() - begun)

        try:
            return ClosingIterator(self._app(environ, start), finish)
        except BaseException:
            finish()
            raise

    def _finish(self, environ: dict[str, Any], status: int, seconds: float) -> None:
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
        stages, reason = environ["gateway.stages"], environ["gateway.reason"]
        label = path if path in self._paths else "other"
        self._metrics.requests.labels(label, status).inc()
        self._metrics.request_seconds.labels(label).observe(seconds)
        for stage, took in stages.items():
            self._metrics.stage_seconds.labels(stage).observe(took)
        if reason:
            self._metrics.rejected.labels(reason).inc()
        fields = {
            "method": method,
            "path": path[:200],
            "status": status,
            "seconds": round(seconds, 4),
            "stages": {stage: round(took, 4) for stage, took in stages.items()},
            "caller": environ.get("REMOTE_ADDR"),
        }
        if reason:
            fields["reason"] = reason
        log.info("%s %s %s", method, path[:200], status, extra={"fields": fields})
        request_id.set("")


def report_details(app: Flask) -> None:
    """Let the app tell what watches it how long each stage took, and why it refused."""

    @app.teardown_request
    def hand_on_stages(_: BaseException | None) -> None:
        request.environ["gateway.stages"] = g.get("stages", {})

    handle = app.handle_user_exception

    def note_reason(error: Exception) -> Any:
        request.environ["gateway.reason"] = reason(error)
        return handle(error)

    app.handle_user_exception = note_reason


def too_slow(_: ClientDisconnected) -> Response:
    """408: the request's body did not come in whole, or not in time."""
    request.environ["gateway.reason"] = "slow_caller"
    return Problem(
        "slow-request", "the request did not arrive in time: send it faster, or send less"
    )


def refuse(environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
    """503: a WSGI app for what is more than the gateway handles at once."""
    environ["gateway.reason"] = "overload"
    answer = Problem("busy", "the gateway has more to do than it can: try again in a moment")
    return answer(environ, start_response)


class Service:
    """The gateway's app with all that keeps it standing; itself a WSGI app."""

    def __init__(self, settings: Settings) -> None:
        """Raises ContractError for a contract that cannot be used. Make it after any fork."""
        self.metrics = Metrics()
        self.app = app = create_app(**settings.configuration(), METADATA=tracing.metadata)
        report_details(app)
        app.register_error_handler(ClientDisconnected, too_slow)
        if tracing.wanted(os.environ):
            tracing.start(app)
        client = app.extensions["model"]
        self.readiness = Readiness(lambda: client.describe(timeout=CHECK_SECONDS))
        self.limit = Shedding(app, refuse, most=settings.threads - 2)
        self.metrics.in_flight.set_function(lambda: self.limit.in_flight)
        paths = frozenset(rule.rule for rule in app.url_map.iter_rules() if not rule.arguments)
        self._handle = Watching(self.limit, self.metrics, paths)

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """Handle one request."""
        return self._handle(environ, start_response)


def create_service() -> Service:
    """The gateway as its GATEWAY_* variables describe it."""
    return Service(Settings.from_environment(os.environ))
