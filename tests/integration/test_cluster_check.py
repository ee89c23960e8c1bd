"""The cluster check against a world that is as it should be, and against bad ones.

No cluster is here: kubectl is tests/fake_kubectl.py. The load that it sends is real, and meets a
small server of this test.
"""

import itertools
import json
import os
import sys
from pathlib import Path

import kubernetes_validate
import pytest
from flask import Flask, abort, request

from tests.cluster import check, kind, load
from tests.web_server import serve
from tutorial import kubernetes

ARGUMENTS = ["--context", "kind-test", "--window", "0.01", "--patience", "2"]
ARGUMENTS += ["--next-gateway", "clothing-gateway:next", "--next-model", "clothing-model:next"]


@pytest.fixture
def fake_cluster(tmp_path, monkeypatch, root):
    command = tmp_path / "kubectl"
    script = root / "tests/fake_kubectl.py"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{script}" "$@"\n')
    command.chmod(0o755)
    monkeypatch.setattr(kubernetes, "kubectl", lambda: str(command))
    monkeypatch.setenv("FAKE_CLUSTER", str(tmp_path / "world.json"))


def test_check_passes_on_a_good_cluster(fake_cluster, capsys):
    check.main(ARGUMENTS)
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said if "none failed" not in line] == [
        "k8s/overlays/kind applied, both tiers ready",
        "requests in 0.01 s, by pod in order of birth: [10.0, 10.0, 10.0]",
    ]
    assert len([line for line in said if "none failed" in line]) == 6
    assert json.loads(Path(os.environ["FAKE_CLUSTER"]).read_text())["load"] is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("pinned", r"no share of the requests: \{'model-3': 10.0, .*: 0"),
        ("lossy", r"new gateway rolled out: 3 of \d+ requests failed: ConnectionResetError"),
        ("old", r"the new model's version is 1, the old one's 1"),
        ("stuck", r"kubectl rollout status deployment/model .*: error: timed out"),
    ],
)
def test_check_fails_on_a_bad_cluster(fault, message, fake_cluster, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAULT", fault)
    with pytest.raises(SystemExit, match=message):
        check.main(ARGUMENTS)
    assert "what a person would look at" in capsys.readouterr().err
    assert json.loads(Path(os.environ["FAKE_CLUSTER"]).read_text())["load"] is None


def test_pod_of_the_load_is_valid_and_as_restricted_as_a_gateway():
    deployment = kubernetes.find(kubernetes.render(kubernetes.K8S), "Deployment", "gateway")
    gateway = deployment["spec"]["template"]["spec"]
    pod = check.load_pod("clothing-gateway:next")
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    [container] = pod["spec"]["containers"]
    assert container["image"] == "clothing-gateway:next"
    assert pod["spec"]["securityContext"] == gateway["securityContext"]
    assert container["securityContext"] == gateway["containers"][0]["securityContext"]
    sizes = [file.stat().st_size for file in check.LOAD_FILES]
    assert sum(sizes) * 4 / 3 < 2**20  # what a ConfigMap may hold, in base64


def run_load(address, capsys, *options):
    """Run the load; return its last count."""
    load.main([address.removeprefix("http://"), str(check.PICTURE), "t-shirt", *options])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_load_counts_answers_and_failures(capsys):
    app, numbers = Flask("gateway"), itertools.count(1)

    @app.post("/predict")
    def predict():
        assert request.files["file"].read() == check.PICTURE.read_bytes()
        number = next(numbers)
        if number % 7 == 0:
            abort(503)
        return {"t-shirt": 1.0, "hat": 2.0 if number % 5 == 0 else 0.0}

    with serve(app) as address:
        counts = run_load(address, capsys, "--seconds", "0.9", "--rate", "50")
    seen = next(numbers) - 1
    wrong = sum(number % 7 == 0 or number % 5 == 0 for number in range(1, seen + 1))
    assert 5 < seen <= 50
    assert (counts["answered"], counts["failed"]) == (seen - wrong, wrong)
    assert counts["failure"].startswith(("HTTPError: HTTP Error 503", "hat instead of t-shirt"))


def test_load_counts_a_gateway_that_is_not_there(capsys):
    counts = run_load("127.0.0.1:1", capsys, "--seconds", "0.2")
    assert counts["answered"] == 0 < counts["failed"]
    assert "Connection refused" in counts["failure"]


def test_kind_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(kind.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["kind"])
    with pytest.raises(SystemExit, match=r"(?s)does not find:.*docker  https.*kind  https"):
        kind.main()


def test_kind_builds_the_images_that_the_overlay_names():
    found = {
        container["image"]
        for each in kubernetes.render(kubernetes.K8S / "overlays/kind")
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert found == set(kind.images().values())
