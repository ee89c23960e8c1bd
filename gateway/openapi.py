"""Describe the gateway's HTTP interface as an OpenAPI document and as a page: openapi.yaml."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from flask import Blueprint, current_app, render_template

from gateway.contract import Contract
from gateway.errors import MAX_PICTURES
from gateway.incoming import TOO_LARGE
from gateway.problems import KINDS

blueprint = Blueprint("openapi", __name__)


def describe(contract: Contract) -> dict[str, Any]:
    """Return the OpenAPI document of a gateway for a model's contract."""
    import jinja2  # here: a gateway starts sooner without them
    import yaml

    titles: dict[int, list[str]] = defaultdict(list)
    for kind in KINDS.values():
        titles[kind.status].append(kind.title)
    template = Path(__file__).with_name("openapi.yaml").read_text(encoding="utf-8")
    text = jinja2.Template(template).render(
        model_name=contract.model_name,
        labels=contract.labels,
        max_pictures=MAX_PICTURES,
        too_large=TOO_LARGE,
        problems=titles,
    )
    return yaml.safe_load(text)


def described() -> dict[str, Any]:
    """Return the current app's document, made when it is first asked for."""
    extensions = current_app.extensions
    if "openapi" not in extensions:
        extensions["openapi"] = describe(extensions["model"].contract)
    return extensions["openapi"]


@blueprint.get("/openapi.json")
def document() -> dict[str, Any]:
    """Return the description as an OpenAPI document."""
    return described()


@blueprint.get("/docs")
def docs() -> str:
    """Show the description as a page."""
    dumps = current_app.json.dumps
    return render_template("docs.html", document=described(), kinds=KINDS, dumps=dumps)
