"""Answer HTTP requests with predictions: take a picture, ask the model, name the scores.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

import logging
from http import HTTPStatus
from typing import Any

import grpc
from flask import Blueprint, Flask, Response, current_app, json, render_template, request
from werkzeug.exceptions import HTTPException

from gateway.fetch import fetch, read_origins
from gateway.images import MAX_BYTES, BusyError, ImageError, decode_and_prepare
from gateway.model_client import Contract, ModelClient, ModelMismatchError

log = logging.getLogger(__name__)
blueprint = Blueprint("gateway", __name__)


def problem(status: int, detail: str) -> Response:
    """An RFC 9457 answer: `detail` tells a person what was wrong and what to do."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    return Response(json.dumps(body), status, mimetype="application/problem+json")


@blueprint.app_errorhandler(ImageError)
def bad_picture(error: ImageError) -> Response:
    """400: whoever sent the picture, or its address, can mend it."""
    return problem(400, str(error))


@blueprint.app_errorhandler(BusyError)
def busy(_: BusyError) -> Response:
    """503: nothing is wrong but the moment."""
    answer = problem(503, "too many pictures at once: try again in a moment")
    answer.headers["Retry-After"] = "1"
    return answer


@blueprint.app_errorhandler(grpc.RpcError)
def model_trouble(error: grpc.RpcError) -> Response:
    """502 to 504, by what the model server, or the lack of one, said."""
    log.error("model: %s: %s", error.code().name, error.details())
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return problem(504, "the model did not answer in time: try again")
    unready = (
        grpc.StatusCode.UNAVAILABLE,  # nobody listens, or the queue is full
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,  # still loading
    )
    if error.code() in unready:
        return problem(503, "the model is not available now: try again in a moment")
    return problem(502, "the model could not handle the request")


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


def requested_picture() -> bytes:
    """The picture file that the current request brings, or whose address it names."""
    if upload := request.files.get("file"):
        return upload.read()
    body = request.get_json(silent=True)
    url = body.get("url") if isinstance(body, dict) else None
    if not isinstance(url, str):
        raise ImageError('send {"url": "https://…"} as JSON, or a picture as the form field "file"')
    return fetch(url, allowed_origins=current_app.config["ALLOWED_ORIGINS"])


@blueprint.post("/predict")
def predict() -> dict[str, float]:
    """POST /predict: label to score, in the model's order, the model's scores as they are."""
    client: ModelClient = current_app.extensions["model"]
    timeout: float = current_app.config["MODEL_TIMEOUT"]
    picture = requested_picture()
    size = client.signature(timeout=timeout).input_size
    batch = decode_and_prepare(picture, size, client.contract.preprocessing)
    scores = client.predict(batch, timeout=timeout)[0].tolist()
    return dict(zip(client.contract.labels, scores, strict=True))


@blueprint.get("/livez")
def livez() -> dict[str, str]:
    """GET /livez: the process answers."""
    return {"status": "alive"}


@blueprint.get("/readyz")
def readyz() -> dict[str, str]:
    """GET /readyz: the model answers and fits the contract; else the error handlers answer."""
    current_app.extensions["model"].describe(timeout=1.0)
    return {"status": "ready"}


@blueprint.get("/")
def index() -> Response:
    """GET /: the page on which one drops a photo."""
    contract = current_app.extensions["model"].contract
    page = Response(render_template("index.html", **vars(contract)))
    page.headers["Content-Security-Policy"] = "default-src 'self'; img-src * blob: data:"
    return page


def create_app(**settings: Any) -> Flask:
    """The gateway; settings win over GATEWAY_* environment variables, those over the defaults.

    MODEL_ADDRESS: the model server's host:port. CONTRACT: the path of the model's contract.json.
    MODEL_TIMEOUT: seconds that the model may take. ALLOWED_ORIGINS: where pictures may be fetched
    besides the public internet, comma-separated, for development ("http://127.0.0.1:8081/").
    Raises ModelMismatchError for a bad contract, ValueError for what is no origin.
    """
    app = Flask("gateway")
    app.config.from_mapping(
        MODEL_ADDRESS="localhost:8500",
        CONTRACT="contract.json",
        MODEL_TIMEOUT=5.0,
        ALLOWED_ORIGINS="",
        MAX_CONTENT_LENGTH=MAX_BYTES + 64 * 1024,  # a picture, and the form around it
    )
    app.config.from_prefixed_env("GATEWAY")
    app.config.from_mapping(settings)
    app.config["ALLOWED_ORIGINS"] = read_origins(app.config["ALLOWED_ORIGINS"])
    app.json.sort_keys = False  # labels in the model's order
    contract = Contract.read(app.config["CONTRACT"])
    app.extensions["model"] = ModelClient(app.config["MODEL_ADDRESS"], contract)
    app.register_blueprint(blueprint)
    return app
