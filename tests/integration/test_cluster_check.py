"""What the cluster check notices, and the load that it sends, without a cluster.

`make kind-test` runs the whole check in a cluster.
"""

import itertools
import json
import os
import sys

import kubernetes_validate
import pytest
from flask import Flask, abort, request

from tests.cluster import check, kind, load
from tests.web_server import serve
from tutorial import TutorialError, kubernetes


@pytest.fixture
def checked() -> check.Check:
    """A check of no cluster, which neither measures nor waits for long."""
    return check.Check("k8s/overlays/kind", "nowhere", {}, window=0.001, patience=0.01)


COUNTED = {"answered": 4, "failed": 1, "failure": "refused", "took": {"10": 4}}
FAILED = {"answered": 9, "failed": 2, "failure": "reset", "took": {"10": 9}}


@pytest.mark.parametrize(("gains", "fair"), [((10, 10), True), ((10, 5), True), ((10, 1), False)])
def test_each_model_must_get_half_of_its_share(checked, monkeypatch, gains, fair):
    counts = ({"old": n * gains[0], "new": n * gains[1]} for n in itertools.count())
    monkeypatch.setattr(checked, "predictions", lambda: next(counts))
    if fair:
        checked.shares()
    else:
        with pytest.raises(TutorialError, match=r"no share .*: \{'old': 10, 'new': 1\}"):
            checked.shares()


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (FAILED, "a step: 1 of 6 requests failed: reset"),
        (COUNTED, "waited 0.01 s for an answer to the load"),
    ],
)
def test_a_step_fails_with_a_request_and_without_any(checked, monkeypatch, after, words):
    counts = itertools.chain([COUNTED], itertools.repeat(after))
    monkeypatch.setattr(checked, "counted", lambda: next(counts))
    with pytest.raises(TutorialError, match=words):
        checked.while_loaded("a step", lambda: None)


def test_step_reports_what_the_load_measured(checked, monkeypatch, capsys):
    after = {"answered": 104, "failed": 1, "failure": "refused", "took": {"10": 102, "250": 2}}
    counts = itertools.chain([COUNTED], itertools.repeat(after))
    monkeypatch.setattr(checked, "counted", lambda: next(counts))
    checked.while_loaded("a step", lambda: None)
    words = "a step: 100 requests meanwhile, none failed, 99% within 250 ms"
    assert words in capsys.readouterr().out


def test_check_asks_for_the_named_deployment_and_its_own_labels(checked, monkeypatch):
    asked = []

    def kubectl(*arguments):
        asked.append(arguments)
        labels = {"app": "scorer", "tier": "back"}
        pod = {"name": "scorer-1", "creationTimestamp": "2026-01-01T00:00:00Z"}
        found = {"spec": {"selector": {"matchLabels": labels}}, "items": [{"metadata": pod}]}
        return json.dumps(found)

    monkeypatch.setattr(checked, "kubectl", kubectl)
    checked.model = "scorer"
    assert checked.pods("model") == ["scorer-1"]
    assert asked[0][:2] == ("get", "deployment/scorer")
    assert asked[1][:4] == ("get", "pods", "--selector", "app=scorer,tier=back")


def test_models_must_agree_on_their_version(checked, monkeypatch):
    answers = iter(['{"model_spec": {"version": "1"}}', '{"model_spec": {"version": "2"}}'])
    monkeypatch.setattr(checked, "pods", lambda tier: ["one", "other"])
    monkeypatch.setattr(checked, "ask_model", lambda pod, path: next(answers))
    with pytest.raises(TutorialError, match=r"serve the versions \[1, 2\]"):
        checked.served_version()


def test_check_that_fails_gives_the_words_of_kubectl_and_what_to_look_at(capsys):
    images = ["--next-gateway", "clothing-gateway:next", "--next-model", "clothing-model:next"]
    with pytest.raises(SystemExit, match=r"cluster check: kubectl apply .*: error: context"):
        check.main(["--context", "nowhere", *images])
    assert "$ kubectl get events" in capsys.readouterr().err


def test_pod_of_the_load_is_valid_and_as_restricted_as_a_gateway():
    deployment = kubernetes.find(kubernetes.render(kubernetes.K8S), "Deployment", "gateway")
    gateway = deployment["spec"]["template"]["spec"]
    pod = check.load_pod("clothing-gateway:next", "gateway:9696", "t-shirt")
    kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
    [container] = pod["spec"]["containers"]
    assert container["image"] == "clothing-gateway:next"
    assert pod["spec"]["securityContext"] == gateway["securityContext"]
    assert container["securityContext"] == gateway["containers"][0]["securityContext"]
    assert container["command"][2:] == ["gateway:9696", "/load/picture", "t-shirt"]
    sizes = [file.stat().st_size for file in (check.LOAD, check.PICTURE)]
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
    assert sum(counts["took"].values()) == counts["answered"]
    assert counts["failure"].startswith(("HTTPError: HTTP Error 503", "hat instead of t-shirt"))


def test_kind_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(kind.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["kind"])
    with pytest.raises(SystemExit, match=r"(?s)does not find:.*docker  https.*kind  https"):
        kind.main()


@pytest.mark.parametrize(("version", "old"), [("0.20.0", True), ("0.33.0", False)])
def test_kind_must_know_the_node_image(tmp_path, monkeypatch, version, old):
    program = tmp_path / "kind"
    program.write_text(f"#!/bin/sh\necho kind v{version} go1.24.2 linux/amd64\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert any("kind 0.32 or newer" in line for line in kind.missing()) == old


def test_kind_builds_the_images_that_the_overlay_names():
    found = {
        container["image"]
        for each in kubernetes.render(kubernetes.K8S / "overlays/kind")
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert found == set(kind.images().values())
