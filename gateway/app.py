"""Answer HTTP requests with predictions: read pictures, ask the model, name the scores.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

from functools import partial
from typing import Any

import numpy as np
from flask import Blueprint, Flask, Response, current_app, render_template

from gateway import model_client, openapi, problems
from gateway.channel import LazyChannel
from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.errors import MAX_REQUEST, PICTURE_LIMITS
from gateway.fetch import read_origins
from gateway.held_bytes import HeldBytes
from gateway.images import decode_and_resize
from gateway.incoming import map_pictures, requested_deadline, requested_files, stage, stages
from gateway.model_client import ModelClient, Prediction
from gateway.operations.settings import defaults

blueprint = Blueprint("gateway", __name__)


def make_client(settings: dict[str, Any]) -> ModelClient:
    """Return a client for the model in the settings. Raises ContractError for a bad contract."""
    return ModelClient(
        LazyChannel(settings["MODEL_ADDRESS"]),
        Contract.read(settings["CONTRACT"]),
        version=settings["MODEL_VERSION"],
    )


def model_seconds(deadline: Deadline) -> float:
    """Return the timeout, in seconds, for the next call of the model in the current request.

    Raises DeadlineError if no time is left.
    """
    left = current_app.config["MODEL_TIMEOUT"] - stages().get("model", 0.0)
    return deadline.within(left).remaining()


def input_size(client: ModelClient, deadline: Deadline) -> tuple[int, int]:
    """Return the model's input size (height, width). The first request asks the server for it."""
    signatures = client.signatures
    if not signatures:
        with stage("model"):
            signatures = model_client.describe(client, timeout=model_seconds(deadline))
    return signatures[-1].input_size


def read_pixels(
    client: ModelClient, files: list[bytes], deadline: Deadline, *, several: bool
) -> np.ndarray:
    """Return the pixels of picture files, of shape (N, height, width, colours).

    Raises ImageError, BusyError or DeadlineError as `decode_and_resize`.
    """
    contract = client.contract
    decode = partial(
        decode_and_resize,
        size=input_size(client, deadline),
        deadline=deadline,
        how=contract.resize,
        colours=contract.colours,
        shrink=contract.shrink_jpegs,
    )
    with stage("decode"):
        return np.concatenate(map_pictures(decode, files, several=several))


def predict_pictures() -> tuple[Prediction, bool]:
    """Return the prediction for the request's pictures, and whether the client wants a list."""
    client = current_app.extensions["model"]
    deadline = requested_deadline()
    with HeldBytes() as held:
        files, several = requested_files(deadline, held)
        pixels = read_pixels(client, files, deadline, several=several)
        itemsize = next((each.input_dtype.itemsize for each in client.signatures), 4)
        held.add(pixels.size * itemsize)  # the bytes to send
        with stage("model"):
            prediction = model_client.predict(client, pixels, timeout=model_seconds(deadline))
        for observe in current_app.extensions.get("observers", ()):
            observe(files, pixels, prediction.scores)
        return prediction, several


@blueprint.post("/predict")
def predict() -> dict[str, float] | list[dict[str, float]]:
    """Return a dictionary from label to score for each picture, in the model's order."""
    prediction, several = predict_pictures()
    labels = current_app.extensions["model"].contract.labels
    scored = [dict(zip(labels, row, strict=True)) for row in prediction.scores.tolist()]
    return scored if several else scored[0]


def rank(scores: np.ndarray, contract: Contract) -> list[dict[str, Any]]:
    """Return one picture's labels with score and probability, the best label first.

    `scores` has the shape (labels,).
    """
    probabilities = contract.probabilities(scores).tolist()
    rows = zip(contract.labels, scores.tolist(), probabilities, strict=True)
    return [
        {"label": label, "score": score, "probability": probability}
        for label, score, probability in sorted(rows, key=lambda row: -row[1])
    ]


@blueprint.post("/classify")
def classify() -> dict[str, Any]:
    """Return ranked labels, the model that answered, and the seconds of each stage."""
    prediction, several = predict_pictures()
    contract = current_app.extensions["model"].contract
    results = []
    for row in prediction.scores:
        predictions = rank(row, contract)
        unsure = predictions[0]["probability"] < current_app.config.get("UNSURE_BELOW", 0)
        results.append({"predictions": predictions, "unsure": unsure})
    return {
        **({"results": results} if several else results[0]),
        "model": {"name": contract.model_name, "version": prediction.version},
        "seconds": {name: round(seconds, 6) for name, seconds in stages().items()},
    }


@blueprint.get("/")
def index() -> str:
    """Return the page where people choose a photo."""
    contract = current_app.extensions["model"].contract
    return render_template("index.html", limits=PICTURE_LIMITS, **vars(contract))


@blueprint.after_app_request
def restrict_pages(response: Response) -> Response:
    """Let a page load only pictures and this server's files. No other site may embed it."""
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = (
            "default-src 'self'; img-src * blob: data:; frame-ancestors 'self'; base-uri 'none'"
        )
    return response


def create_app(**settings: Any) -> Flask:
    """Return the gateway's app. Settings are those of gateway.operations.settings, in upper case.

    Raises ContractError for a bad contract, ValueError for bad ALLOWED_ORIGINS.
    """
    app = Flask("gateway")
    app.config.from_mapping(defaults() | settings, MAX_CONTENT_LENGTH=MAX_REQUEST + 64 * 1024)
    app.config["ALLOWED_ORIGINS"] = read_origins(app.config["ALLOWED_ORIGINS"])
    app.json.sort_keys = False  # labels stay in the model's order
    app.json.ensure_ascii = False  # and in their own letters
    app.extensions["model"] = make_client(app.config)
    problems.register(app)
    app.register_blueprint(openapi.blueprint)
    app.register_blueprint(blueprint)
    return app
