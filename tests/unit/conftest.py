"""The gateway's app in front of the fake model."""

from functools import partial

import pytest

from gateway.app import create_app
from gateway.operations.service import create_service


@pytest.fixture
def make_app(fake_model, contract_file):
    """A function that makes an app for the fake model, from further settings."""
    return partial(create_app, MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file)


@pytest.fixture
def make_service(fake_model, contract_file):
    """A function that makes the whole gateway, without gunicorn, from further settings."""
    return partial(create_service, MODEL_ADDRESS=fake_model[1], CONTRACT=contract_file)


@pytest.fixture
def gateway(make_app):
    """A test client of the app with no further settings."""
    return make_app().test_client()
