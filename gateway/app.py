"""Answer HTTP requests with predictions: take a picture, ask the model, name the scores.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import grpc
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    json,
    render_template,
    request,
)
from werkzeug.exceptions import HTTPException

from gateway.deadline import Deadline, DeadlineError
from gateway.fetch import fetch, read_origins
from gateway.images import MAX_BYTES, BusyError, ImageError, decode_and_prepare
from gateway.model_client import Contract, ModelClient, ModelMismatchError
from gateway.settings import defaults

FETCH_SECONDS = 5.0  # the most that a download gets of a request's time

log = logging.getLogger(__name__)
blueprint = Blueprint("gateway", __name__)


def problem(status: int, detail: str) -> Response:
    """An RFC 9457 answer: `detail` tells a person what was wrong and what to do.

    A 503 names the seconds after which to try again.
    """
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    headers = {"Retry-After": "1"} if status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return Response(json.dumps(body), status, headers, mimetype="application/problem+json")


@blueprint.app_errorhandler(ImageError)
def bad_picture(error: ImageError) -> Response:
    """400: whoever sent the picture, or its address, can mend it."""
    return problem(400, str(error))


@blueprint.app_errorhandler(BusyError)
def busy(_: BusyError) -> Response:
    """503: nothing is wrong but the moment."""
    return problem(503, "too many pictures at once: try again in a moment")


TOO_SLOW = (504, "the model did not answer in time: try again")
NOT_NOW = (503, "the model is not available now: try again in a moment")
UNABLE = (502, "the model could not handle the request")


def meaning(error: grpc.RpcError, *, was_ready: bool) -> tuple[int, str]:
    """Status and detail for a failed call; `was_ready`: whether the model was ever there."""
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
def model_trouble(error: grpc.RpcError) -> Response:
    """502 to 504, by what the model server, or the lack of one, said."""
    log.error("model: %s: %s", error.code().name, error.details())
    return problem(*meaning(error, was_ready=current_app.extensions["model"].was_ready))


@blueprint.app_errorhandler(DeadlineError)
def out_of_time(error: DeadlineError) -> Response:
    """504: the caller's time, or the most that the gateway gives, is over."""
    return problem(504, f"{error}: try again, or allow more")


@blueprint.app_errorhandler(ModelMismatchError)
def wrong_model(error: ModelMismatchError) -> Response:
    """502: the model that answers is not the one in the contract."""
    log.error("model: %s", error)
    return problem(502, "the gateway and its model do not fit together")


@blueprint.app_errorhandler(HTTPException)
def http_error(error: HTTPException) -> Response:
    """Whatever Flask refuses, and what nobody foresaw, in the same form."""
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return problem(413, f"the picture is larger than {MAX_BYTES >> 20} MB")
    return problem(error.code or 500, error.description or "")


def requested_deadline() -> Deadline:
    """The moment by which the current request is to be answered; 400 for a bad Request-Timeout."""
    most: float = current_app.config["REQUEST_TIMEOUT"]
    try:
        seconds = float(request.headers.get("Request-Timeout", most))
    except ValueError:
        seconds = 0
    if not seconds > 0:
        abort(400, "the header Request-Timeout wants seconds, more than 0, as in 2.5")
    return Deadline.after(min(seconds, most))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note in flask.g.stages how many seconds a step of the current request took."""
    begun = time.monotonic()
    try:
        yield
    finally:
        stages = g.setdefault("stages", {})
        stages[name] = stages.get(name, 0.0) + time.monotonic() - begun


def requested_picture(deadline: Deadline) -> bytes:
    """The picture file that the current request brings, or whose address it names."""
    if upload := request.files.get("file"):
        return upload.read()
    body = request.get_json(silent=True)
    url = body.get("url") if isinstance(body, dict) else None
    if not isinstance(url, str):
        raise ImageError('send {"url": "https://…"} as JSON, or a picture as the form field "file"')
    try:
        with stage("fetch"):
            return fetch(
                url,
                allowed_origins=current_app.config["ALLOWED_ORIGINS"],
                timeout=deadline.within(FETCH_SECONDS).remaining(),
            )
    except ImageError:
        deadline.remaining()  # where the request's time is up, that is what to say
        raise


@blueprint.post("/predict")
def predict() -> dict[str, float]:
    """POST /predict: label to score, in the model's order, the model's scores as they are."""
    client: ModelClient = current_app.extensions["model"]
    deadline = requested_deadline()
    picture = requested_picture(deadline)
    most: float = current_app.config["MODEL_TIMEOUT"]
    size = client.signature(timeout=deadline.within(most).remaining()).input_size
    with stage("decode"):
        batch = decode_and_prepare(picture, size, client.contract.preprocessing)
    with stage("model"):
        scores = client.predict(batch, timeout=deadline.within(most).remaining())[0].tolist()
    return dict(zip(client.contract.labels, scores, strict=True))


@blueprint.get("/")
def index() -> Response:
    """GET /: the page on which one drops a photo."""
    contract = current_app.extensions["model"].contract
    page = Response(render_template("index.html", **vars(contract)))
    page.headers["Content-Security-Policy"] = "default-src 'self'; img-src * blob: data:"
    return page


def create_app(**settings: Any) -> Flask:
    """The gateway's app; settings are those of gateway.settings, in upper case, as MODEL_ADDRESS.

    Besides, INTERCEPTORS: gRPC interceptors that see every call of the model. Raises
    ModelMismatchError for a bad contract, ValueError for what is no origin.
    """
    app = Flask("gateway")
    app.config.from_mapping(
        defaults(),
        INTERCEPTORS=(),
        MAX_CONTENT_LENGTH=MAX_BYTES + 64 * 1024,  # a picture, and the form around it
    )
    app.config.from_mapping(settings)
    app.config["ALLOWED_ORIGINS"] = read_origins(app.config["ALLOWED_ORIGINS"])
    app.json.sort_keys = False  # labels in the model's order
    app.extensions["model"] = ModelClient(
        app.config["MODEL_ADDRESS"],
        Contract.read(app.config["CONTRACT"]),
        interceptors=app.config["INTERCEPTORS"],
    )
    app.register_blueprint(blueprint)
    return app
