"""Every metric that the dashboard and KEDA ask for is one that a running server gives."""

import json
import re
import shutil
import subprocess

import pytest
import requests

from tutorial import kubernetes, services
from tutorial.processes import free_ports

DASHBOARD = services.ROOT / "k8s/components/monitoring/dashboard.json"
PANELS = json.loads(DASHBOARD.read_text())["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
SCALED = kubernetes.find(kubernetes.render_with("keda"), "ScaledObject", "model")
QUERIES += [trigger["metadata"]["query"] for trigger in SCALED["spec"]["triggers"]]
METRIC = re.compile(r"(:tensorflow:[\w:]+|gateway_\w+|process_\w+)")
# This project's model server cannot measure its queue: it is inside TensorFlow's batcher.
TENSORFLOW_SERVING_ONLY = {":tensorflow:serving:batching_session:queuing_latency"}


def asked(*prefixes: str) -> set[str]:
    names = {name for query in QUERIES for name in METRIC.findall(query)}
    return {re.sub("_(bucket|sum)$", "", name) for name in names if name.startswith(prefixes)}


def given(text: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def test_model_server_and_gateway_give_the_metrics_of_the_dashboard(starter_model, start_gateway):
    port, rest_port = free_ports(2)
    configuration = services.ROOT / "serving"
    command = [
        *services.model_server_command(starter_model, port),
        f"--rest_api_port={rest_port}",
        "--enable_batching",
        f"--batching_parameters_file={configuration / 'batching.txt'}",
        f"--monitoring_config_file={configuration / 'monitoring.txt'}",
    ]
    with services.start_model_server("model-server", command, port):
        url = f"http://127.0.0.1:{rest_port}/monitoring/prometheus/metrics"
        of_model = asked(":tensorflow:")
        assert of_model - given(requests.get(url, timeout=10).text) == TENSORFLOW_SERVING_ONLY
        assert len(of_model) > 4

        gateway = start_gateway(
            model_address=f"127.0.0.1:{port}", contract=starter_model / "contract.json"
        )
        assert asked("gateway_", "process_") <= given(gateway.admin("/metrics").text)
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
