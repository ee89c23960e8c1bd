"""The cluster check against a world that is as it should be, and against bad ones.

No cluster is here: kubectl is tests/fake_kubectl.py. The load that it sends is real, and meets a
small server of this test.
"""

import http.server
import json
import os
import stat
import sys
import threading
from pathlib import Path

import kubernetes_validate
import pytest

from tests.cluster import check, kind, load
from tutorial import kubernetes

ARGUMENTS = ["--context", "kind-test", "--window", "0.01", "--patience", "2"]
ARGUMENTS += ["--next-gateway", "clothing-gateway:next", "--next-model", "clothing-model:next"]


@pytest.fixture
def fake_cluster(tmp_path, monkeypatch, root):
    command = tmp_path / "kubectl"
    script = root / "tests/fake_kubectl.py"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{script}" "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setattr(kubernetes, "kubectl", lambda: str(command))
    monkeypatch.setenv("FAKE_CLUSTER", str(tmp_path / "world.json"))


def test_a_good_cluster_passes(fake_cluster, capsys):
    check.main(ARGUMENTS)
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said if "none failed" not in line] == [
        "k8s/overlays/kind applied, both tiers ready",
        "through the Service: t-shirt 4.38",
        "requests in 0.01 s, by pod in order of birth: [10.0, 10.0, 10.0]",
    ]
    assert len([line for line in said if "none failed" in line]) == 6
    assert json.loads(Path(os.environ["FAKE_CLUSTER"]).read_text())["load"] is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("pinned", r"in vain for a share of the requests for each model: \{'model-3': 10.0, .*: 0"),
        ("lossy", r"new gateway rolled out: 3 of \d+ requests failed: ConnectionResetError"),
        ("old", r"the new model's version is 1, the old one's 1"),
        ("stuck", r"kubectl rollout status deployment/model .*: error: timed out"),
    ],
)
def test_a_bad_one_does_not(fault, message, fake_cluster, monkeypatch, capsys):
    monkeypatch.setenv("FAKE_FAULT", fault)
    with pytest.raises(SystemExit, match=message):
        check.main(ARGUMENTS)
    assert "what a person would look at" in capsys.readouterr().err
    assert json.loads(Path(os.environ["FAKE_CLUSTER"]).read_text())["load"] is None


@pytest.mark.skipif(not kubernetes.kubectl(), reason="there is no kubectl to render with")
def test_the_loads_pod_is_valid_and_as_restricted_as_a_gateway():
    deployment = kubernetes.find(kubernetes.render(kubernetes.K8S), "Deployment", "gateway")
    gateway = deployment["spec"]["template"]["spec"]
    files, pod = check.load_objects(gateway)["items"]
    for each in (files, pod):
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)
    assert pod["spec"]["securityContext"] == gateway["securityContext"]
    assert sum(map(len, files["binaryData"].values())) < 2**20  # what a ConfigMap may hold


# The load


class Gateway(http.server.BaseHTTPRequestHandler):
    """Answers every fifth request wrongly, every seventh with an error."""

    seen = 0
    lock = threading.Lock()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert check.PICTURE.read_bytes() in body
        with self.lock:
            type(self).seen += 1
            number = self.seen
        if number % 7 == 0:
            return self.send_error(503)
        scores = json.dumps({"t-shirt": 1.0, "hat": 2.0 if number % 5 == 0 else 0.0}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(scores)))
        self.end_headers()
        self.wfile.write(scores)

    def log_message(self, *_):
        pass


@pytest.fixture
def gateway():
    Gateway.seen = 0
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_load_counts_answers_and_failures(gateway, capsys):
    picture = ["--picture", str(check.PICTURE), "--expect", "t-shirt"]
    load.main([gateway, *picture, "--seconds", "0.9", "--rate", "50", "--threads", "3"])
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    seen = Gateway.seen
    wrong = sum(number % 7 == 0 or number % 5 == 0 for number in range(1, seen + 1))
    assert 5 < seen <= 50
    assert (counts["answered"], counts["failed"]) == (seen - wrong, wrong)
    assert counts["failure"].startswith(("ValueError: 503", "hat instead of t-shirt"))


def test_the_load_counts_a_gateway_that_is_not_there(capsys):
    picture = ["--picture", str(check.PICTURE), "--expect", "t-shirt"]
    load.main(["127.0.0.1:1", *picture, "--seconds", "0.2"])
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["answered"] == 0 < counts["failed"]
    assert counts["failure"].startswith("ConnectionRefusedError")


def test_asked_once_the_load_shows_the_answer(gateway, capsys):
    load.main([gateway, "--picture", str(check.PICTURE)])
    assert json.loads(capsys.readouterr().out) == {"t-shirt": 1.0, "hat": 0.0}


# kind


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(kind.shutil, "which", lambda name: None)
    monkeypatch.setattr(kubernetes, "kubectl", lambda: None)
    with pytest.raises(
        SystemExit, match=r"(?s)does not find:.*docker  https.*kind  https.*kubectl"
    ):
        monkeypatch.setattr(sys, "argv", ["kind"])
        kind.main()


def test_the_images_are_those_that_the_overlay_names():
    found = {
        container["image"]
        for each in kubernetes.render(kubernetes.K8S / "overlays/kind")
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert found == set(kind.images().values())
