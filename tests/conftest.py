"""What several test modules share."""

import fcntl
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tutorial.services import BUILD, ROOT, STUBS


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
    folder = tmp_path / "pictures"
    folder.mkdir()
    handler = partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each on stderr."""

    def log_message(self, *_: object) -> None:
        """Keep quiet."""
