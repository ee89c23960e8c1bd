"""Describe the gateway's HTTP interface as an OpenAPI document.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

from collections.abc import Callable
from typing import Any

from apispec import APISpec
from apispec_webframeworks.flask import FlaskPlugin
from flask import Flask

from gateway.contract import Contract
from gateway.incoming import MAX_PICTURES, TOO_LARGE
from gateway.problems import KINDS


def strict(**properties: Any) -> dict:
    """The schema of an object that has all of these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def ref(name: str) -> dict:
    """The schema of that name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_or_list(schema: dict) -> dict:
    """The schema of an answer for one picture, or of one for several."""
    return {"oneOf": [schema, {"type": "array", "items": schema, "minItems": 1}]}


URL = {"type": "string", "format": "uri", "examples": ["https://example.com/photo.jpg"]}
FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
FILES = {"type": "array", "items": FILE, "minItems": 1, "maxItems": MAX_PICTURES}
URLS = {"type": "array", "items": URL, "minItems": 1, "maxItems": MAX_PICTURES}
BODY = {
    "required": True,
    "description": f"One picture or several, by address or as files. {TOO_LARGE}.",
    "content": {
        "application/json": {"schema": {"oneOf": [strict(url=URL), strict(urls=URLS)]}},
        "multipart/form-data": {"schema": strict(file=FILES)},
        "image/*": {"schema": FILE},
        "application/octet-stream": {"schema": FILE},
    },
}
TIMEOUT = {
    "name": "Request-Timeout",
    "in": "header",
    "description": "Seconds that the caller waits; the gateway gives no more than its own limit.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
    "example": 2.5,
}


def schemas(contract: Contract) -> dict[str, dict]:
    """The named parts of the document, for a model's contract."""
    number, seconds = {"type": "number"}, {"type": "number", "minimum": 0}
    prediction = strict(
        label={"enum": list(contract.labels)},
        score=number | {"description": "As the model gives it."},
        probability={"type": "number", "minimum": 0, "maximum": 1},
    )
    problem = strict(
        type={"type": "string", "format": "uri-reference"},
        title={"type": "string"},
        status={"type": "integer"},
        detail={"type": "string", "description": "What was wrong, and what to do."},
    )
    problem["properties"]["index"] = {
        "type": "integer",
        "minimum": 0,
        "description": "Which of several pictures it is about, counted from 0.",
    }
    ranked = {"type": "array", "items": prediction, "description": "The likeliest first."}
    about = {
        "model": strict(name={"type": "string"}, version={"type": "integer"}),
        "seconds": {"type": "object", "additionalProperties": seconds},
    }
    results = {"type": "array", "items": strict(predictions=ranked), "minItems": 1}
    return {
        "Scores": strict(**dict.fromkeys(contract.labels, number)),
        "Classification": {
            "oneOf": [strict(predictions=ranked, **about), strict(results=results, **about)]
        },
        "Problem": problem,
    }


def problem_responses() -> dict[str, dict]:
    """The errors that a request about pictures may end in, by status."""
    content = {"application/problem+json": {"schema": ref("Problem")}}
    titles: dict[str, list[str]] = {}
    for status, title in KINDS.values():
        titles.setdefault(str(status), []).append(title)
    return {
        status: {"description": ". ".join(words) + ".", "content": content}
        for status, words in titles.items()
    }


def get(view: Callable) -> dict:
    """The description of a page or document, which nothing is sent to."""
    return {
        "operationId": view.__name__,
        "summary": view.__doc__,
        "responses": {"200": {"description": view.__doc__}},
    }


def post(view: Callable, answer: dict, example: dict) -> dict:
    """The description of a request about pictures, and of an answer with such a schema."""
    content = {"application/json": {"schema": answer, "example": example}}
    responses = {"200": {"description": view.__doc__, "content": content}}
    return get(view) | {
        "parameters": [TIMEOUT],
        "requestBody": BODY,
        "responses": responses | problem_responses(),
    }


EXAMPLE = ((4.4, 0.97), (0.6, 0.02), (-0.1, 0.01))  # score and probability of the best labels


def example(contract: Contract) -> dict:
    """An answer of /classify for one picture, as it might be, without the labels far behind."""
    return {
        "predictions": [
            {"label": label, "score": score, "probability": probability}
            for label, (score, probability) in zip(contract.labels, EXAMPLE, strict=False)
        ],
        "model": {"name": contract.model_name, "version": 1},
        "seconds": {"fetch": 0.11, "decode": 0.004, "model": 0.07},
    }


def describe(app: Flask, contract: Contract) -> dict:
    """The OpenAPI document of the gateway's app, for a model's contract."""
    spec = APISpec(
        title=f"What the model {contract.model_name} sees in a picture",
        version="1.0",
        openapi_version="3.1.1",
        plugins=[FlaskPlugin()],
        info={"description": "Labels and scores for pictures, by address or as files."},
    )
    for name, schema in schemas(contract).items():
        spec.components.schema(name, schema)
    answers = {
        "predict": (one_or_list(ref("Scores")), dict.fromkeys(contract.labels, -0.1)),
        "classify": (ref("Classification"), example(contract)),
    }
    for name, view in app.view_functions.items():
        name = name.removeprefix("gateway.")
        if name in answers:
            spec.path(view=view, app=app, operations={"post": post(view, *answers[name])})
        elif name in ("index", "docs", "openapi_document"):
            spec.path(view=view, app=app, operations={"get": get(view)})
    return spec.to_dict()
