"""Say what went wrong, in the form of RFC 9457: in words for people, under names for programs.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

import logging
from http import HTTPStatus
from typing import Any

import grpc
from flask import Blueprint, Response, current_app, json
from werkzeug.exceptions import HTTPException

from gateway.deadline import DeadlineError
from gateway.fetch import BlockedError
from gateway.images import BusyError, ImageError
from gateway.model_client import ModelMismatchError

log = logging.getLogger(__name__)
blueprint = Blueprint("problems", __name__)


KINDS = {  # name: status, title
    "bad-request": (400, "This is not a request that the service takes"),
    "bad-picture": (400, "This is not a picture that can be used"),
    "blocked-address": (400, "This is not an address that is fetched"),
    "slow-request": (408, "This request did not arrive in time"),
    "too-large": (413, "This is too large"),
    "unknown-content-type": (415, "This is not a type of content that is read"),
    "model-failed": (502, "The model could not handle the request"),
    "busy": (503, "There is too much to do at the moment"),
    "model-unavailable": (503, "The model is not available now"),
    "out-of-time": (504, "The time for this request is up"),
}


class Problem(Response):
    """An RFC 9457 answer of one of the KINDS; a 503 names the seconds after which to try again."""

    def __init__(self, kind: str, detail: str, **members: Any) -> None:
        """`detail` tells a person what was wrong and what to do; `members` are for programs."""
        status, title = KINDS[kind]
        body = {"type": f"/docs#{kind}", "title": title, "status": status, "detail": detail}
        headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
        super().__init__(
            json.dumps(body | members), status, headers, mimetype="application/problem+json"
        )
        self.kind = kind


@blueprint.app_errorhandler(ImageError)
def bad_picture(error: ImageError) -> Problem:
    """400: whoever sent the picture, or its address, can mend it."""
    kind = "blocked-address" if isinstance(error, BlockedError) else "bad-picture"
    members = {} if error.index is None else {"index": error.index}
    return Problem(kind, str(error), **members)


@blueprint.app_errorhandler(BusyError)
def busy(_: BusyError) -> Problem:
    """503: nothing is wrong but the moment."""
    return Problem("busy", "too many pictures at once: try again in a moment")


TOO_SLOW = ("out-of-time", "the model did not answer in time: try again")
NOT_NOW = ("model-unavailable", "the model is not available now: try again in a moment")
UNABLE = ("model-failed", "the model could not handle the request")


def meaning(error: grpc.RpcError, *, was_ready: bool) -> tuple[str, str]:
    """Kind and detail for a failed call; `was_ready`: whether the model was ever there."""
    match error.code():
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return TOO_SLOW
        case grpc.StatusCode.UNAVAILABLE:  # nobody there, or its queue is full
            return NOT_NOW
        case grpc.StatusCode.NOT_FOUND:  # still loading, or gone
            return UNABLE if was_ready else NOT_NOW
        case grpc.StatusCode.RESOURCE_EXHAUSTED:  # a message too large, or too long in the queue
            return UNABLE if "message larger than max" in (error.details() or "") else NOT_NOW
        case _:
            return UNABLE


@blueprint.app_errorhandler(grpc.RpcError)
def model_trouble(error: grpc.RpcError) -> Problem:
    """502 to 504, by what the model server, or the lack of one, said."""
    log.error("model: %s: %s", error.code().name, error.details())
    return Problem(*meaning(error, was_ready=current_app.extensions["model"].was_ready))


@blueprint.app_errorhandler(DeadlineError)
def out_of_time(error: DeadlineError) -> Problem:
    """504: the caller's time, or the most that the gateway gives, is over."""
    return Problem("out-of-time", f"{error}: try again, or allow more")


@blueprint.app_errorhandler(ModelMismatchError)
def wrong_model(error: ModelMismatchError) -> Problem:
    """502: the model that answers is not the one in the contract."""
    log.error("model: %s", error)
    return Problem("model-failed", "the gateway and its model do not fit together")


STATUSES = {400: "bad-request", 413: "too-large", 415: "unknown-content-type"}


@blueprint.app_errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """Whatever Flask refuses, and what nobody foresaw, in the same form."""
    if error.code in STATUSES:
        return Problem(STATUSES[error.code], error.description or "")
    response = error.get_response()  # with its headers: a 405 says which methods there are
    body = {"type": "about:blank", "title": error.name, "status": error.code}
    response.data = json.dumps(body | {"detail": error.description or ""})
    response.mimetype = "application/problem+json"
    return response
