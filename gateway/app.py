"""Answer HTTP requests with predictions: take pictures, ask the model, name the scores.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

from typing import Any

import numpy as np
from flask import Blueprint, Flask, Response, current_app, g, render_template

from gateway import problems
from gateway.contract import Contract
from gateway.fetch import read_origins
from gateway.images import MAX_BYTES, decode_and_resize, open_picture
from gateway.incoming import MAX_REQUEST, blaming, requested_deadline, requested_files, stage
from gateway.model_client import ModelClient, Prediction
from gateway.settings import defaults

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
                batches.append(decode_and_resize(picture, size))
    pixels = np.concatenate(batches) if several else batches[0]
    with stage("model"):
        return client.predict(pixels, timeout=deadline.within(most).remaining()), several


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


def described() -> dict[str, Any]:
    """The app's OpenAPI document, made when it is first asked for."""
    extensions = current_app.extensions
    if "openapi" not in extensions:
        from gateway.openapi import describe  # here: a gateway is ready sooner without

        extensions["openapi"] = describe(current_app, extensions["model"].contract)
    return extensions["openapi"]


@blueprint.get("/openapi.json")
def openapi_document() -> dict[str, Any]:
    """This description, as an OpenAPI document."""
    return described()


@blueprint.get("/docs")
def docs() -> Response:
    """This description, as a page."""
    dumps = current_app.json.dumps
    return page("docs.html", document=described(), kinds=problems.KINDS, dumps=dumps)


def page(template: str, **values: Any) -> Response:
    """A page that may run and load nothing but what comes from here, and show any picture."""
    response = Response(render_template(template, **values))
    response.headers["Content-Security-Policy"] = "default-src 'self'; img-src * blob: data:"
    return response


@blueprint.get("/")
def index() -> Response:
    """The page on which one drops a photo."""
    contract: Contract = current_app.extensions["model"].contract
    return page("index.html", max_bytes=MAX_BYTES, **vars(contract))


def create_app(**settings: Any) -> Flask:
    """The gateway's app; settings are those of gateway.settings, in upper case, as MODEL_ADDRESS.

    Besides, METADATA: a function that says what metadata goes with a call of the model. Raises
    ContractError for a bad contract, ValueError for what is no origin.
    """
    app = Flask("gateway")
    app.config.from_mapping(
        defaults(),
        METADATA=tuple,
        MAX_CONTENT_LENGTH=MAX_REQUEST + 64 * 1024,  # the pictures, and the form around them
    )
    app.config.from_mapping(settings)
    app.config["ALLOWED_ORIGINS"] = read_origins(app.config["ALLOWED_ORIGINS"])
    app.json.sort_keys = False  # labels in the model's order
    contract = Contract.read(app.config["CONTRACT"])
    app.extensions["model"] = ModelClient(
        app.config["MODEL_ADDRESS"],
        contract,
        signature_name=app.config["MODEL_SIGNATURE"],
        version=app.config["MODEL_VERSION"],
        metadata=app.config["METADATA"],
    )
    app.register_blueprint(problems.blueprint)
    app.register_blueprint(blueprint)
    return app
