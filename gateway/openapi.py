"""Describe the gateway's HTTP interface as an OpenAPI document and as a page: openapi.yaml."""

from collections import defaultdict
from functools import cache
from typing import Any

from flask import Blueprint, current_app, render_template

from gateway.errors import MAX_PICTURES, TOO_LARGE
from gateway.problems import KINDS

blueprint = Blueprint("openapi", __name__)


@cache
def describe(model_name: str, labels: tuple[str, ...]) -> dict[str, Any]:
    """Return the OpenAPI document of a gateway for a model."""
    import yaml  # here: a gateway starts sooner without it

    titles: dict[int, list[str]] = defaultdict(list)
    for kind in KINDS.values():
        titles[kind.status].append(kind.title)
    text = render_template(
        "openapi.yaml",
        model_name=model_name,
        labels=labels,
        max_pictures=MAX_PICTURES,
        too_large=TOO_LARGE,
        problems=titles,
    )
    return yaml.safe_load(text)


@blueprint.get("/openapi.json")
def document() -> dict[str, Any]:
    """Return the description as an OpenAPI document."""
    contract = current_app.extensions["model"].contract
    return describe(contract.model_name, contract.labels)


@blueprint.get("/docs")
def docs() -> str:
    """Show the description as a page."""
    dumps = current_app.json.dumps
    return render_template("docs.html", document=document(), kinds=KINDS, dumps=dumps)
