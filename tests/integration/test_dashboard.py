"""Every metric that the dashboard asks for is one that a running server gives."""

import json
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest

from tutorial import services
from tutorial.processes import free_port, start_server

DASHBOARD = services.ROOT / "k8s/components/monitoring/dashboard.json"
PANELS = json.loads(DASHBOARD.read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
METRIC = re.compile(r"(:tensorflow:[\w:]+|gateway_\w+|process_\w+)")
# This project's model server has no queue of its own to measure: TensorFlow's batcher keeps it.
TENSORFLOW_SERVING_ONLY = {":tensorflow:serving:batching_session:queuing_latency"}


def asked(prefix: str) -> set[str]:
    names = {name for query in QUERIES for name in METRIC.findall(query) if name.startswith(prefix)}
    return {name.removesuffix("_bucket") for name in names}


def given(url: str) -> set[str]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), re.MULTILINE))


@pytest.fixture(scope="module")
def model(starter_model):
    """The starter model, served as in its image: (its folder, gRPC port, URL of its metrics)."""
    port, rest_port = free_port(), free_port()
    configuration = services.ROOT / "serving"
    command = [
        *services.model_server_command(starter_model, port),
        f"--rest_api_port={rest_port}",
        "--enable_batching",
        f"--batching_parameters_file={configuration / 'batching.txt'}",
        f"--monitoring_config_file={configuration / 'monitoring.txt'}",
    ]
    with services.start_model_server("model-server", command, port):
        yield starter_model, port, f"http://127.0.0.1:{rest_port}/monitoring/prometheus/metrics"


def test_model_server_gives_what_is_asked_of_it(model):
    missing = asked(":tensorflow:") - given(model[2])
    assert missing == TENSORFLOW_SERVING_ONLY
    assert len(asked(":tensorflow:")) > 4


def test_gateway_gives_what_is_asked_of_it(model):
    folder, model_port, _ = model
    port, admin = free_port(), free_port()
    with start_server(
        "gateway",
        [sys.executable, "-m", "gunicorn", "-c", str(services.ROOT / "gateway/gunicorn.conf.py")],
        ready=lambda: services.http_status(f"http://127.0.0.1:{admin}/readyz") == 200,
        log=services.LOGS / "gateway.log",
        env={
            "PYTHONPATH": str(services.STUBS),
            "GATEWAY_BIND": f"127.0.0.1:{port}",
            "GATEWAY_ADMIN_BIND": f"127.0.0.1:{admin}",
            "GATEWAY_MODEL_ADDRESS": f"127.0.0.1:{model_port}",
            "GATEWAY_CONTRACT": str(folder / "contract.json"),
        },
    ):
        there = given(f"http://127.0.0.1:{admin}/metrics")
    assert asked("gateway_") | asked("process_") <= there
    assert len(asked("gateway_")) >= 5


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
def test_prometheus_understands_each_query(tmp_path):
    rules = [
        {"record": f"query{number}", "expr": query.replace("$__rate_interval", "1m")}
        for number, query in enumerate(QUERIES)
    ]
    file = tmp_path / "rules.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ended = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
