"""The service answers, and compose.yaml and the manifests mean the same images and model."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests
import yaml
from PIL import Image

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
MODEL = ROOT / "models/starter"
CONTRACT = json.loads((MODEL / "contract.json").read_text())
OVERLAYS = [path.parent for path in ROOT.glob("k8s/overlays/*/kustomization.yaml")]
SECONDS = 120  # for both servers to start


def free_ports(count):
    """Return ports on which nothing listens."""
    with ExitStack() as stack:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        return [stack.enter_context(each).getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Start both servers as `make run` does; return the gateway's address."""
    gateway, admin, model = free_ports(3)
    environment = {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "MODEL_NAME": MODEL.name,
        "MODEL_PORT": str(model),
        "GATEWAY_BIND": f"127.0.0.1:{gateway}",
        "GATEWAY_ADMIN_BIND": f"127.0.0.1:{admin}",
        "GATEWAY_MODEL_ADDRESS": f"127.0.0.1:{model}",
        "GATEWAY_CONTRACT": str(MODEL / "contract.json"),
    }
    log = tmp_path_factory.mktemp("service") / "log"
    with log.open("wb") as output:
        servers = subprocess.Popen(
            [sys.executable, "-m", "honcho", "--no-colour", "-e", "/dev/null", "start"],
            cwd=ROOT,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
        )
    try:
        deadline = time.monotonic() + SECONDS
        while not ready(f"http://127.0.0.1:{admin}/readyz"):
            if servers.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the servers are not ready:\n{log.read_text()}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{gateway}"
    finally:
        servers.terminate()
        servers.wait()


def ready(url):
    """Return whether the gateway can answer."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def send(url, picture):
    """Send a picture as a file."""
    return requests.post(url, files={"file": picture}, timeout=60)


def test_picture_gets_a_score_for_each_label(address):
    """The labels are those of the contract, in its order."""
    Image.new("RGB", (64, 48), "navy").save(picture := io.BytesIO(), "PNG")
    answer = send(f"{address}/predict", picture.getvalue())
    assert answer.status_code == 200, answer.text
    assert list(answer.json()) == CONTRACT["labels"]
    assert all(isinstance(score, float) for score in answer.json().values())


def test_unreadable_file_is_the_clients_error(address):
    """The answer says so, and the service goes on."""
    answer = send(f"{address}/predict", b"no picture")
    assert answer.status_code == 400, answer.text


def test_page_is_there(address):
    """It is at the gateway's address itself."""
    assert "<html" in requests.get(address, timeout=60).text


def test_contract_of_the_manifests_is_the_models():
    """Copy the file to k8s/base after a change."""
    assert json.loads((ROOT / "k8s/base/contract.json").read_text()) == CONTRACT


def test_images_are_built_with_this_model():
    """The contract, compose.yaml, the Dockerfile and the canary name one model."""
    compose, docker = (ROOT / "compose.yaml").read_text(), (ROOT / "Dockerfile.model").read_text()
    canary = (ROOT / "k8s/components/canary/models.config").read_text()
    named = re.findall(r"\$\{MODEL_NAME:-(.+?)\}", compose)
    named += re.findall(r"ARG MODEL_NAME=(.+)", docker)
    named += re.findall(r'name: "(.+)"', canary)
    assert set(named) == {CONTRACT["model_name"]} == {MODEL.name}


@pytest.mark.parametrize("folder", [ROOT / "k8s", *OVERLAYS], ids=lambda folder: folder.name)
def test_manifests_are_for_the_images_of_compose(folder):
    """All objects are in the namespace with compose's name."""
    result = subprocess.run([BIN / "kubectl", "kustomize", folder], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    objects = list(yaml.safe_load_all(result.stdout))
    namespaces = {
        each["metadata"]["name" if each["kind"] == "Namespace" else "namespace"] for each in objects
    }
    assert namespaces == {COMPOSE["name"]}
    built = {tier: COMPOSE["services"][tier]["image"] for tier in ("gateway", "model")}
    deployments = [each for each in objects if each["kind"] == "Deployment"]
    assert {each["metadata"]["name"] for each in deployments} == built.keys()
    for each in deployments:
        [container] = each["spec"]["template"]["spec"]["containers"]
        name = container["image"].rpartition("/")[2].partition(":")[0]
        assert name == built[each["metadata"]["name"]].partition(":")[0]
