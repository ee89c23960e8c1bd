"""Answer errors in the form of RFC 9457: a type for programs, a sentence for people."""

import logging
from typing import NamedTuple

import grpc
from flask import Flask, Response, current_app, json, request
from werkzeug.exceptions import (
    BadRequest,
    ClientDisconnected,
    HTTPException,
    RequestEntityTooLarge,
    UnsupportedMediaType,
)

from gateway.channel import is_connected
from gateway.errors import (
    TOO_LARGE,
    BlockedError,
    BusyError,
    CallerLeftError,
    DeadlineError,
    ImageError,
    ModelMismatchError,
    NoModelError,
    RemoteError,
)

log = logging.getLogger(__name__)


class Kind(NamedTuple):
    """Describe one kind of error for clients, logs and metrics; clients can fix those below 500."""

    raised: type[Exception]  # an error is of the first kind that fits it
    status: int
    title: str
    retry_after: int = 1  # seconds after which the client is asked to try again, if `status` is 503


KINDS = {  # by name: the problem's type is /docs#NAME, the reason in logs and metrics is NAME
    "blocked-address": Kind(BlockedError, 400, "This is not an address that is fetched"),
    "slow-address": Kind(RemoteError, 400, "The server at this address is too slow"),
    "remote-status": Kind(RemoteError, 400, "The server at this address gives no picture"),
    "bad-certificate": Kind(RemoteError, 400, "The server at this address cannot be trusted"),
    "unreachable-address": Kind(RemoteError, 400, "The server at this address cannot be reached"),
    "lookup-failed": Kind(RemoteError, 503, "The name of the server cannot be looked up now"),
    "bad-picture": Kind(ImageError, 400, "This is not a picture that can be used"),
    "slow-request": Kind(ClientDisconnected, 408, "This request did not arrive in time"),
    "too-large": Kind(RequestEntityTooLarge, 413, "This is too large"),
    "unknown-content-type": Kind(
        UnsupportedMediaType, 415, "This is not a type of content that is read"
    ),
    "bad-request": Kind(BadRequest, 400, "This is not a request that the service takes"),
    "caller-left": Kind(CallerLeftError, 499, "The connection was closed before the answer"),
    "busy": Kind(BusyError, 503, "There is too much to do at the moment"),
    "out-of-time": Kind(DeadlineError, 504, "The time for this request is up"),
    "model-unavailable": Kind(grpc.RpcError, 503, "The model is not available now"),
    "no-model": Kind(NoModelError, 503, "No model server runs now", retry_after=10),
    "model-failed": Kind(ModelMismatchError, 502, "The model could not handle the request"),
}
DETAILS = {  # where the exception's own message is not for the client
    "slow-request": "the request did not arrive in time: send it faster, or send less",
    "busy": "the gateway has too much to do: try again in a moment",
    "out-of-time": "there was no answer in time: try again, or allow more time",
    "model-unavailable": "the model is not available now: try again in a moment",
    "no-model": "no model server runs now: one may be starting, so try again in ten seconds",
    "model-failed": "the model could not handle the request",
}

LOOK = 0.2  # seconds for a look at the connection: enough on a busy machine, too
GAVE_UP = ("caller-left", "out-of-time")  # the caller no longer waits for the answer


def kind_of(error: Exception) -> str:
    """Return the name in KINDS for an exception that one of them describes."""
    if isinstance(error, grpc.RpcError):
        model = current_app.extensions["model"]
        late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if late and not is_connected(model.channel(), within=LOOK):
            return "model-unavailable"  # the call waited for a server, and none came
        return failed_call(error, was_ready=model.was_ready)
    if isinstance(error, RemoteError):
        return error.kind
    return next(name for name, kind in KINDS.items() if isinstance(error, kind.raised))


def failed_call(error: grpc.RpcError, *, was_ready: bool) -> str:
    """Return the name in KINDS for a failed call of the model.

    `was_ready` says whether the model was ever there: a model not found may be loading still.
    """
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "out-of-time"
        case grpc.StatusCode.UNAVAILABLE:  # no server, or its queue is full
            return "model-unavailable"
        case grpc.StatusCode.NOT_FOUND if not was_ready:
            return "model-unavailable"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:  # a quota, or too large a message
            too_large = "message larger than max" in (error.details() or "")
            return "model-failed" if too_large else "model-unavailable"
        case _:
            return "model-failed"


def answer_error(error: Exception) -> Response:
    """Return the problem for an exception of KINDS, and note its name for logs and metrics."""
    name = request.environ["gateway.reason"] = kind_of(error)
    kind = KINDS[name]
    if isinstance(error, grpc.RpcError):  # the details are for the operator
        log.error("model: %s: %s", error.code().name, error.details())
    elif isinstance(error, ModelMismatchError):
        log.error("model: %s", error)
    said = error.description if isinstance(error, HTTPException) else str(error)
    if said == RequestEntityTooLarge.description:  # Flask's own words do not name the limit
        said = TOO_LARGE
    body = {
        "type": f"/docs#{name}",
        "title": kind.title,
        "status": kind.status,
        "detail": DETAILS.get(name, said) or "",
    }
    if isinstance(error, ImageError) and error.index is not None:
        body["index"] = error.index
    headers = {"Retry-After": str(kind.retry_after)} if kind.status == 503 else None
    return Response(
        json.dumps(body) + "\n", kind.status, headers, mimetype="application/problem+json"
    )


def answer_http_error(error: HTTPException) -> Response:
    """Return what else Flask refuses, and unexpected errors, in the same form."""
    response = error.get_response()  # with its headers: a 405 says which methods are allowed
    body = {"type": "about:blank", "title": error.name, "status": error.code}
    response.data = json.dumps(body | {"detail": error.description or ""}) + "\n"
    response.mimetype = "application/problem+json"
    return response


def register(app: Flask) -> None:
    """Let `app` answer every kind of error as a problem."""
    app.register_error_handler(HTTPException, answer_http_error)
    for kind in KINDS.values():
        app.register_error_handler(kind.raised, answer_error)
