"""Join the app with what runs it in production: the gateway that gunicorn serves."""

import os
from contextlib import suppress
from functools import partial
from math import ceil
from typing import Any

from flask import Flask, Response, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix

from gateway import model_client, problems
from gateway.app import create_app
from gateway.errors import MAX_REQUEST
from gateway.operations import tracing
from gateway.operations.cancellation import CancellableChannel
from gateway.operations.concurrency_limit import ConcurrencyLimit
from gateway.operations.drift import DriftMetrics
from gateway.operations.health import Readiness
from gateway.operations.metrics import Metrics
from gateway.operations.model_wait import check_unless_away, hold_request
from gateway.operations.reference import Reference
from gateway.operations.request_log import RequestLog
from gateway.operations.settings import read_settings

CHECK_SECONDS = 0.8  # for the model's part of /readyz; a cluster's probe waits for one second
MAX_UNREAD = 4 * MAX_REQUEST  # bytes of a refused body


def create_service(**settings: Any) -> Flask:
    """Return `create_app`'s app with request log, metrics, concurrency limit and tracing.

    `app.extensions` has "metrics", "limit" and "readiness". Call it after any fork. Raises
    ContractError for a contract that cannot be used.
    """
    app = create_app(**settings)
    client = app.extensions["model"]
    channel, client.channel = client.channel, CancellableChannel(client.channel)
    if tracing.wanted(os.environ):
        tracing.start(app)  # first, so that refused requests have a trace, too
    app.extensions["metrics"] = metrics = Metrics()
    RequestLog(app, metrics)
    reference = Reference.beside(app.config["CONTRACT"], client.contract)
    app.config["UNSURE_BELOW"] = reference.unsure_below
    app.extensions["limit"] = limit = ConcurrencyLimit(
        app, most=app.config["THREADS"] - 2, patience=app.config["MODEL_TIMEOUT"]
    )
    drift = DriftMetrics(metrics.registry, client.contract, reference, lambda: limit.in_flight)
    app.extensions["observers"] = [drift.observe]
    metrics.in_flight.set_function(lambda: limit.in_flight)
    metrics.limit.set_function(lambda: ceil(limit.limit))
    app.before_request(check_body)
    if app.config["MODEL_WAIT"]:
        app.before_request(partial(hold_request, channel))
    app.after_request(finish_answer)
    app.register_error_handler(ParseException, answer_malformed_body)
    if n := app.config["PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=n, x_proto=n, x_host=n, x_prefix=n)
    check = check_unless_away if app.config["MODEL_WAIT"] else model_client.describe
    app.extensions["readiness"] = Readiness(
        lambda: check(client, timeout=CHECK_SECONDS),
        of=f"the model at {app.config['MODEL_ADDRESS']}",
    )
    return app


def check_body() -> None:
    """Let Werkzeug count a request's body, so that one that ends too soon is an error: 408.

    Answers 415 for a compressed body.
    """
    if request.content_length is not None:
        request.environ.pop("wsgi.input_terminated", None)
    if request.headers.get("Content-Encoding", "").lower() not in ("", "identity"):
        raise UnsupportedMediaType("send the body as it is, without Content-Encoding")


def answer_malformed_body(error: ParseException) -> Response:
    """Return the problem for a chunked body that gunicorn cannot read."""
    return problems.answer_error(BadRequest(f"the body is not what HTTP calls chunked: {error}"))


def finish_answer(response: Response) -> Response:
    """Add headers for browsers. Read the body of a bad request: only then clients read on."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-cache")
    if 400 <= response.status_code < 500:
        left, body = MAX_UNREAD, request.environ["wsgi.input"]
        with suppress(OSError, ParseException):
            while left > 0 and (piece := body.read(64 * 1024)):
                left -= len(piece)
    return response


def from_environment() -> Flask:
    """Return the gateway as its GATEWAY_* variables describe it."""
    return create_service(**read_settings(os.environ))
