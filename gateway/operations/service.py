"""Join the app with what runs it in production: the gateway that gunicorn serves."""

import os
from typing import Any

from flask import Flask, request

from gateway import model_client
from gateway.app import create_app
from gateway.operations import tracing
from gateway.operations.concurrency_limit import ConcurrencyLimit
from gateway.operations.health import Readiness
from gateway.operations.metrics import Metrics
from gateway.operations.request_log import RequestLog
from gateway.operations.settings import read_settings

CHECK_SECONDS = 0.8  # for the model's part of /readyz; a cluster's probe waits for one second


def create_service(**settings: Any) -> Flask:
    """Return `create_app`'s app with request log, metrics, concurrency limit and tracing.

    `app.extensions` has "metrics", "limit" and "readiness". Call it after any fork. Raises
    ContractError for a contract that cannot be used.
    """
    app = create_app(**settings, METADATA=tracing.metadata)
    if tracing.wanted(os.environ):
        tracing.start(app)  # first, so that refused requests have a trace, too
    app.extensions["metrics"] = metrics = Metrics()
    RequestLog(app, metrics)
    app.extensions["limit"] = limit = ConcurrencyLimit(app, most=app.config["THREADS"] - 2)
    metrics.in_flight.set_function(lambda: limit.in_flight)
    app.before_request(count_body)
    client = app.extensions["model"]
    app.extensions["readiness"] = Readiness(
        lambda: model_client.describe(client, timeout=CHECK_SECONDS)
    )
    return app


def count_body() -> None:
    """Let Werkzeug count a request's body, so that one that ends too soon is an error: 408."""
    if request.content_length is not None:
        request.environ.pop("wsgi.input_terminated", None)


def from_environment() -> Flask:
    """Return the gateway as its GATEWAY_* variables describe it."""
    return create_service(**read_settings(os.environ))
