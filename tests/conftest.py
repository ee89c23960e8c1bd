"""What several test modules share."""

import fcntl
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tutorial.services import BUILD, ROOT, STUBS

# jsonschema checks URIs with it if it can. It takes more than a second of each process to load.
sys.modules.setdefault("rfc3987_syntax", None)


def pytest_sessionstart() -> None:
    """Refuse to run where the gateway would load all of TensorFlow."""
    if not (STUBS / ".made").exists():
        raise pytest.UsageError(f"{STUBS} is missing. Make it with: make build/stubs/.made")


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def starter_model(root: Path) -> Path:
    """The starter model's folder in models/, where lessons look for it; made if it is missing."""
    from tutorial.run import convert

    with (BUILD / "starter-model.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of the processes that run tests converts it
        convert("starter")
    return root / "models/starter"


@pytest.fixture
def fake_model():
    """A fake model behind gRPC: (the model, its address)."""
    from tests.fake_model import FakeModel, serve

    model = FakeModel()
    with serve(model) as address:
        yield model, address


@pytest.fixture
def contract_file(tmp_path: Path) -> Path:
    """contract.json for the fake model."""
    from tests.fake_model import CONTRACT

    path = tmp_path / "contract.json"
    path.write_text(json.dumps(CONTRACT))
    return path


@pytest.fixture
def picture_server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder served over HTTP: (the folder, its address without a final slash)."""
    from flask import Flask

    from tests.web_server import serve

    (folder := tmp_path / "pictures").mkdir()
    with serve(Flask("pictures", static_folder=folder, static_url_path="")) as address:
        yield folder, address
