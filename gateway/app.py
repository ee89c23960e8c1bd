"""Read what a caller asks for: by when, and for which pictures.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flask import Blueprint, Flask, Response, current_app, g, render_template

from gateway import openapi, problems
from gateway.fetch import read_origins
from gateway.images import decode_and_prepare, open_picture
from gateway.incoming import MAX_REQUEST, blaming, requested_deadline, requested_files, stage
from gateway.model_client import Contract, ModelClient, Prediction

CHECK_SECONDS = 0.8  # for the model's part of /readyz; a cluster's probe waits for one second

blueprint = Blueprint("gateway", __name__)


def predict_pictures() -> tuple[Prediction, bool]:
    """Ask the model about the current request's pictures; also whether a list is wanted."""
    client: ModelClient = current_app.extensions["model"]
    most: float = current_app.config["MODEL_TIMEOUT"]
    deadline = requested_deadline()
    files, several = requested_files(deadline)
    pictures = []
    for index, data in enumerate(files):
        with blaming(index if several else None):
            pictures.append(open_picture(data))
    size = client.signature(timeout=deadline.within(most).remaining()).input_size
    batches = []
    with stage("decode"):
        for index, picture in enumerate(pictures):
            with blaming(index if several else None):
                batches.append(decode_and_prepare(picture, size, client.contract.preprocessing))
    batch = np.concatenate(batches) if several else batches[0]
    with stage("model"):
        return client.predict(batch, timeout=deadline.within(most).remaining()), several


@blueprint.post("/predict")
def predict() -> dict[str, float] | list[dict[str, float]]:
    """Label to score, in the model's order, the scores as the model gives them."""
    prediction, several = predict_pictures()
    labels = current_app.extensions["model"].contract.labels
    scored = [dict(zip(labels, row, strict=True)) for row in prediction.scores.tolist()]
    return scored if several else scored[0]


def rank(scores: np.ndarray, contract: Contract) -> list[dict[str, Any]]:
    """One picture's labels with score and probability, the likeliest first; scores: (labels,)."""
    probabilities = scores
    if contract.scores == "logits":
        powers = np.exp(scores - scores.max(), dtype=np.float64)
        probabilities = powers / powers.sum()
    rows = zip(contract.labels, scores.tolist(), probabilities.tolist(), strict=True)
    return [
        {"label": label, "score": score, "probability": probability}
        for label, score, probability in sorted(rows, key=lambda row: -row[1])
    ]


@blueprint.post("/classify")
def classify() -> dict[str, Any]:
    """Ranked labels with probabilities, the model that answered, and where the time went."""
    prediction, several = predict_pictures()
    contract: Contract = current_app.extensions["model"].contract
    results = [{"predictions": rank(row, contract)} for row in prediction.scores]
    return {
        **({"results": results} if several else results[0]),
        "model": {"name": contract.model_name, "version": prediction.version},
        "seconds": {name: round(seconds, 6) for name, seconds in g.stages.items()},
    }


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


@blueprint.get("/livez")
def livez() -> dict[str, str]:
    """GET /livez: the process answers."""
    return {"status": "alive"}


@blueprint.get("/readyz")
def readyz() -> dict[str, str]:
    """GET /readyz: the model answers and fits the contract; else the error handlers answer."""
    current_app.extensions["readiness"].confirm()
    return {"status": "ready"}


@blueprint.get("/openapi.json")
def openapi_document() -> dict[str, Any]:
    """This description, as an OpenAPI document."""
    return current_app.extensions["openapi"]


@blueprint.get("/docs")
def docs() -> Response:
    """This description, as a page."""
    document = current_app.extensions["openapi"]
    return page("docs.html", document=document, kinds=problems.KINDS)


def page(template: str, **values: Any) -> Response:
    """A page that may run and load nothing but what comes from here, and show any picture."""
    response = Response(render_template(template, **values))
    response.headers["Content-Security-Policy"] = "default-src 'self'; img-src * blob: data:"
    return response


@blueprint.get("/")
def index() -> Response:
    """The page on which one drops a photo."""
    return page("index.html", **vars(current_app.extensions["model"].contract))


def create_app(**settings: Any) -> Flask:
    """The gateway; settings win over GATEWAY_* environment variables, those over the defaults.

    MODEL_ADDRESS: the model server's host:port. MODEL_VERSION: a version's number or label, if not
    whatever is served. CONTRACT: the path of the model's contract.json. REQUEST_TIMEOUT: seconds
    that a whole request may take; a caller may ask for less. MODEL_TIMEOUT: seconds of these that
    the model may take. ALLOWED_ORIGINS: where pictures may be fetched besides the public internet,
    comma-separated, for development ("http://127.0.0.1:8081/"). INTERCEPTORS: gRPC interceptors
    that see every call.

    Raises ModelMismatchError for a bad contract, ValueError for what is no origin.
    """
    app = Flask("gateway")
    app.config.from_mapping(
        MODEL_ADDRESS="localhost:8500",
        MODEL_VERSION="",
        CONTRACT="contract.json",
        REQUEST_TIMEOUT=8.0,
        MODEL_TIMEOUT=3.0,
        ALLOWED_ORIGINS="",
        INTERCEPTORS=(),
        MAX_CONTENT_LENGTH=MAX_REQUEST + 64 * 1024,  # the pictures, and the form around them
    )
    app.config.from_prefixed_env("GATEWAY")
    app.config.from_mapping(settings)
    app.config["ALLOWED_ORIGINS"] = read_origins(app.config["ALLOWED_ORIGINS"])
    app.json.sort_keys = False  # labels in the model's order
    contract = Contract.read(app.config["CONTRACT"])
    client = app.extensions["model"] = ModelClient(
        app.config["MODEL_ADDRESS"],
        contract,
        version=str(app.config["MODEL_VERSION"]),
        interceptors=app.config["INTERCEPTORS"],
    )
    app.extensions["readiness"] = Readiness(lambda: client.describe(timeout=CHECK_SECONDS))
    app.register_blueprint(problems.blueprint)
    app.register_blueprint(blueprint)
    app.extensions["openapi"] = openapi.describe(app, contract)
    return app
