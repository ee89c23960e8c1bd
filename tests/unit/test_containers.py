"""Dockerfiles, compose.yaml and what they mount: sound each, and in agreement with one another."""

import json
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from gateway.operations.settings import PREFIX, defaults
from tutorial import services

ROOT = Path(__file__).parents[2]
DOCKERFILES = [ROOT / "Dockerfile.gateway", ROOT / "Dockerfile.model"]
BINARIES = Path(sys.executable).parent


def stages(dockerfile: Path) -> dict[str, list[tuple[str, str]]]:
    """Stage to its instructions, each a keyword and the rest of its lines."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    found = {}
    for keyword, rest in re.findall(r"^([A-Z]+) (.+)$", text, re.M):
        if keyword == "FROM":
            base, name = rest.split(" AS ")
            found[name] = list(found.get(base, []))  # a stage that builds on another has its, too
        elif found:
            found[list(found)[-1]].append((keyword, rest))
    return found


def of(stage: list[tuple[str, str]], keyword: str) -> list[str]:
    return [rest for name, rest in stage if name == keyword]


GATEWAY = stages(DOCKERFILES[0])["gateway"]
SHIPPED = {
    "gateway": GATEWAY,
    "model-server": stages(DOCKERFILES[1])["model-server"],
    "openvino": stages(DOCKERFILES[1])["openvino"],
    "serving": stages(DOCKERFILES[1])["serving"],
}
MODEL_SERVERS = ("model-server", "openvino", "serving")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def run_tool(name: str, *arguments: str) -> str:
    """What a command-line tool prints; fails with that where the tool does."""
    tool = shutil.which(name, path=BINARIES) or shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed")
    ended = subprocess.run([tool, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(dockerfile):
    assert run_tool("hadolint", str(dockerfile)) == ""


def test_compose_file_fits_its_schema():
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_prometheus_reads_its_configuration():
    run_tool("promtool", "check", "config", "compose/prometheus.yml")


def test_haproxy_reads_its_configuration():
    run_tool("haproxy", "-c", "-f", "compose/haproxy.cfg")


@pytest.mark.parametrize("name", SHIPPED)
def test_image_runs_as_a_number_and_says_how_it_is(name):
    stage = SHIPPED[name]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of(stage, "USER")[-1])
    check = of(stage, "HEALTHCHECK")[-1].partition("CMD ")[2]
    for command in (*of(stage, "ENTRYPOINT"), *of(stage, "CMD"), check):
        assert isinstance(json.loads(command), list), "the exec form: signals meet no shell"


def test_ports_are_the_same_everywhere():
    assert of(GATEWAY, "EXPOSE") == ["9696 9697"]
    assert "127.0.0.1:9697/livez" in of(GATEWAY, "HEALTHCHECK")[0]
    for name in MODEL_SERVERS:
        assert of(SHIPPED[name], "EXPOSE") == ["8500 8501"]
    assert SERVICES["gateway"]["environment"]["GATEWAY_MODEL_ADDRESS"] == "model:8500"
    assert SERVICES["balancer"]["ports"] == ["${GATEWAY_PORT:-9696}:9696"]
    balancer = (ROOT / "compose/haproxy.cfg").read_text()
    assert re.search(r"bind :9696$", balancer, re.M)
    assert re.search(r"server-template \S+ \d+ gateway:9696 .* port 9697 ", balancer)


def test_both_model_servers_start_alike():
    serving, own = SHIPPED["serving"], SHIPPED["model-server"]
    assert of(serving, "CMD") == of(own, "CMD")
    assert of(serving, "HEALTHCHECK") == of(own, "HEALTHCHECK")
    for file in re.findall(r'/config/([^"]+)', " ".join(of(own, "CMD") + of(own, "HEALTHCHECK"))):
        assert (ROOT / "serving" / file).exists()
    assert [rest for rest in of(own, "COPY") if rest.startswith("serving ")] == ["serving /config"]


def test_openvinos_server_starts_as_in_the_cluster():
    component = yaml.safe_load((ROOT / "k8s/components/openvino/model.yaml").read_text())
    [container] = component["spec"]["template"]["spec"]["containers"]
    flags = json.loads(of(SHIPPED["openvino"], "CMD")[0])
    limited = ',"INFERENCE_NUM_THREADS":"$(CPU_LIMIT)"'
    assert sorted(flags) == sorted(a.replace(limited, "") for a in container["args"])
    assert of(SHIPPED["openvino"], "HEALTHCHECK") == of(SHIPPED["serving"], "HEALTHCHECK")


def test_a_batch_takes_what_one_request_may_bring():
    batching = (ROOT / "serving/batching.txt").read_text()
    assert int(re.search(r"max_batch_size \{ value: (\d+)", batching)[1]) >= 32


def test_prometheus_asks_where_metrics_are():
    monitoring = (ROOT / "serving/monitoring.txt").read_text()
    gateway, model = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"]
    assert model["metrics_path"] == re.search(r'path: "(.+)"', monitoring)[1]
    for job, service, port in ((gateway, "gateway", 9697), (model, "model", 8501)):
        [discovery] = job["dns_sd_configs"]
        assert (discovery["names"], discovery["port"]) == ([service], port)
        assert service in SERVICES


def test_compose_builds_what_is_there():
    for tier in ("model", "gateway"):
        build = SERVICES[tier]["build"]
        assert SERVICES[tier]["image"] == f"clothing-{tier}:${{TAG:-latest}}"
        dockerfile = ROOT / build["dockerfile"]
        declared = re.findall(r"^ARG (\w+)", dockerfile.read_text(), re.M)
        assert build["args"].keys() <= set(declared)
    assert set(MODEL_SERVERS) <= set(stages(ROOT / "Dockerfile.model"))
    assert SERVICES["model"]["build"]["target"] == "${MODEL_TARGET:-serving}"


def test_compose_waits_for_health_where_there_is_a_check():
    checked = {"model": SHIPPED["serving"], "gateway": GATEWAY}
    waits = 0
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            if wait["condition"] == "service_healthy":
                assert of(checked[other], "HEALTHCHECK")
                waits += 1
    assert waits == 2


def test_compose_mounts_files_that_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume).split(":")[0]
            if source.startswith("./") and not source.startswith("./models/"):
                assert (ROOT / source).is_file(), source
            assert source.startswith("./") or source in COMPOSE["volumes"]


def test_contract_is_mounted_where_the_gateway_reads_it():
    environment = " ".join(of(GATEWAY, "ENV"))
    place = re.search(r"GATEWAY_CONTRACT=(\S+)", environment)[1]
    [volume] = SERVICES["gateway"]["volumes"]
    assert volume == f"./models/${{MODEL_NAME:-starter}}/contract.json:{place}:ro"


def test_grafana_finds_the_dashboard():
    [dashboard] = [v for v in SERVICES["grafana"]["volumes"] if "dashboard.json" in v]
    place = Path(dashboard.split(":")[1])
    [provider] = yaml.safe_load((ROOT / "compose/grafana/dashboards.yaml").read_text())["providers"]
    assert str(place.parent) == provider["options"]["path"]
    variables = SERVICES["grafana"]["environment"]
    assert variables["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(place)


def test_settings_named_for_the_gateway_exist():
    known = {PREFIX + name for name in defaults()}
    named = set(re.findall(r"\bGATEWAY_\w+(?==)", " ".join(of(GATEWAY, "ENV"))))
    assert named | SERVICES["gateway"]["environment"].keys() <= known
    assert named


def test_the_gateways_memory_settings_are_the_same_everywhere():
    wanted = {f"{name}={value}" for name, value in services.MALLOC.items()}
    for text in (" ".join(of(GATEWAY, "ENV")), (ROOT / "Procfile").read_text()):
        assert set(re.findall(r"\bMALLOC_\w+=\d+", text)) == wanted


def test_images_get_what_they_copy_and_little_else():
    ignore = (ROOT / ".dockerignore").read_text().split("\n")
    patterns = [line for line in ignore if line and not line.startswith("#")]
    allowed = {pattern[1:] for pattern in patterns if pattern.startswith("!")}
    assert patterns[0] == "*" and {"**/__pycache__", "**/.*"} <= set(patterns)
    copied = {
        source.split("/")[0]
        for dockerfile in DOCKERFILES
        for stage in stages(dockerfile).values()
        for rest in of(stage, "COPY")
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == {path.split("/")[0] for path in allowed}
    code = [
        path.stat().st_size
        for allowed_path in allowed - {"models"}  # a model may weigh what it likes
        for path in (ROOT / allowed_path, *(ROOT / allowed_path).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert sum(code) < 2_000_000


@pytest.fixture
def model_status():
    """A REST API that answers with what the test puts in: (the answers, its port)."""
    answers: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b"{}"))

        def log_message(self, *_):
            """Keep quiet."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield answers, server.server_port
        server.shutdown()


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("state", "code"), [("AVAILABLE", 0), ("LOADING", 1), ("UNAVAILABLE", 1), (None, 1)]
)
def test_model_is_healthy_when_a_version_is_served(model_status, state, code):
    answers, port = model_status
    if state:
        answers["/v1/models/hats"] = json.dumps({"state": state}).encode()
    command = ["bash", str(ROOT / "serving/healthcheck.sh"), str(port)]
    assert subprocess.run(command, env={"MODEL_NAME": "hats"}, timeout=10).returncode == code


def test_model_is_not_healthy_where_nobody_listens(model_status):
    command = ["bash", str(ROOT / "serving/healthcheck.sh"), "1"]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=10).returncode == 1
