"""What the cluster check judges by. `make kind-test` runs all of it, in a cluster.

The load that it sends is real here, and meets a small server of this test.
"""

import itertools
import json
import sys

import kubernetes_validate
import pytest
from flask import Flask, abort, request

from tests.cluster import check, kind, load
from tests.web_server import serve
from tutorial import TutorialError, kubernetes

CHECK = check.Check("none", {}, window=0.01, patience=0.05)


@pytest.mark.parametrize(
    ("answered", "failed", "message"),
    [(9, 3, "roll: 3 of 9 requests failed: why"), (3, 0, "waited too long for an answer")],
)
def test_while_loaded_fails_if_a_request_failed_or_none_was_answered(
    monkeypatch, answered, failed, message
):
    counts = [
        {"answered": 3, "failed": 0},
        *[{"answered": answered, "failed": failed, "failure": "why"}] * 99,
    ]
    monkeypatch.setattr(CHECK, "counted", iter(counts).__next__)
    with pytest.raises(TutorialError, match=message):
        CHECK.while_loaded("roll", lambda: None)


@pytest.mark.parametrize(("third", "shared"), [(24, True), (19, False), (0, False)])
def test_has_shares_wants_half_of_a_fair_share_for_each_pod(monkeypatch, third, shared):
    counts = iter([{"a": 100.0, "b": 5.0}, {"a": 150.0, "b": 55.0, "c": third}])
    monkeypatch.setattr(CHECK, "predictions", counts.__next__)
    assert CHECK.has_shares() == shared


def test_served_version_is_one_on_which_the_models_agree(monkeypatch):
    answers = {pod: json.dumps({"model_spec": {"version": pod}}) for pod in "12"}
    monkeypatch.setattr(CHECK, "ask_models", lambda path: answers)
    with pytest.raises(TutorialError, match=r"serve the versions \[1, 2\]"):
        CHECK.served_version()


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


def run_load(address, capsys, **options):
    """Run the load; return its last count."""
    load.main(address.removeprefix("http://"), check.PICTURE, "t-shirt", **options)
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
        counts = run_load(address, capsys, seconds=0.9, rate=50)
    seen = next(numbers) - 1
    wrong = sum(number % 7 == 0 or number % 5 == 0 for number in range(1, seen + 1))
    assert 5 < seen <= 50
    assert (counts["answered"], counts["failed"]) == (seen - wrong, wrong)
    assert counts["failure"].startswith(("HTTPError: HTTP Error 503", "hat instead of t-shirt"))


def test_load_counts_a_gateway_that_is_not_there(capsys):
    counts = run_load("127.0.0.1:1", capsys, seconds=0.2)
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
