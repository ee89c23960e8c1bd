"""The gateway does what its OpenAPI document says, whatever is sent to it."""

import json
import os

import pytest
import schemathesis
from axe_playwright_python.sync_playwright import Axe
from hypothesis import HealthCheck, assume, given, settings
from hypothesis.strategies import one_of
from jsonschema import Draft202012Validator
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.app import create_app
from tests.browser import launch
from tests.fake_model import CONTRACT, FakeModel
from tests.fake_model import serve as serve_model
from tests.web_server import serve

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "60"))  # make test-openapi: 500


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A gateway in front of a fake model, with no way into the network."""
    path = tmp_path_factory.mktemp("contract") / "contract.json"
    path.write_text(json.dumps(CONTRACT))
    with serve_model(FakeModel()) as address, pytest.MonkeyPatch.context() as patch:
        # Else it would go and look for whatever addresses schemathesis thinks of.
        patch.setattr("gateway.fetch.resolve", lambda origin, deadline: ["127.0.0.1"])
        yield create_app(MODEL_ADDRESS=address, CONTRACT=path, REQUEST_TIMEOUT=5)


@pytest.fixture(scope="module")
def document(app) -> dict:
    """The document as a client gets it."""
    return app.test_client().get("/openapi.json").json


def is_impatient(case) -> bool:
    """Whether the caller gives so little time that 504, which is described, is the right answer."""
    try:
        return 0 < float(case.headers.get("Request-Timeout", "nan")) < 1
    except ValueError:
        return False


ALLOWED, NOT_ALLOWED = GenerationMode.POSITIVE, GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("path", "method", "modes"),
    [
        ("/predict", "POST", [ALLOWED, NOT_ALLOWED]),
        ("/classify", "POST", [ALLOWED, NOT_ALLOWED]),
        ("/", "GET", [ALLOWED]),
        ("/docs", "GET", [ALLOWED]),
        ("/openapi.json", "GET", [ALLOWED]),
    ],
)
def test_every_answer_is_described(app, path, method, modes):
    described = schemathesis.openapi.from_wsgi("/openapi.json", app)[path][method]

    @given(one_of([described.as_strategy(mode) for mode in modes]))
    @settings(
        max_examples=EXAMPLES if method == "POST" else 1,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def ask(case):
        assume(not is_impatient(case))
        # No schema can say which bytes are a picture, and which address leads to one.
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    ask()


def test_document_is_openapi_3_1_and_its_examples_fit_its_schemas(document):
    assert document["openapi"].startswith("3.1.")
    for path in ("/predict", "/classify"):
        content = document["paths"][path]["post"]["responses"]["200"]["content"]
        answer = content["application/json"]
        schema = answer["schema"] | {"components": document["components"]}
        Draft202012Validator(schema).validate(answer["example"])


def test_every_page_and_request_is_described(app, document):
    undescribed = {"/static/<path:filename>"}
    rules = {rule.rule for rule in app.url_map.iter_rules()} - undescribed
    assert document["paths"].keys() == rules


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_docs_page_is_accessible_and_needs_nothing_from_outside(app, scheme):
    with serve(app) as origin, launch() as browser:
        page = browser.new_page(color_scheme=scheme, viewport={"width": 320, "height": 700})
        page.goto(f"{origin}/docs")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert all(sent.url.startswith(origin) for sent in page.requests())
