"""Dockerfiles, compose.yaml and what they mount: each is sound, and they agree with the cluster."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from flask import Flask

from gateway.operations.settings import PREFIX, defaults
from tests.web_server import serve
from tutorial import ROOT, services

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
MODEL_SERVERS = {
    name: stages(DOCKERFILES[1])[name] for name in ("model-server", "openvino", "serving")
}
SERVING, OWN = MODEL_SERVERS["serving"], MODEL_SERVERS["model-server"]
SHIPPED = {"gateway": GATEWAY, **MODEL_SERVERS}
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
JOBS = yaml.safe_load((ROOT / "compose/prometheus.yml").read_text())["scrape_configs"]


def manifest(path: str) -> dict:
    """The spec of the first object in a file under k8s/."""
    return next(yaml.safe_load_all((ROOT / "k8s" / path).read_text()))["spec"]


PODS = {tier: manifest(f"base/{tier}.yaml")["template"]["spec"] for tier in ("gateway", "model")}
CONTAINERS = {tier: pod["containers"][0] for tier, pod in PODS.items()}


@pytest.mark.parametrize(
    "command",
    [
        "hadolint Dockerfile.gateway Dockerfile.model",
        "check-jsonschema --builtin-schema vendor.compose-spec compose.yaml",
        "promtool check config compose/prometheus.yml",
        "haproxy -c -f compose/haproxy.cfg",
    ],
)
def test_tools_find_no_fault_with_the_files(command):
    name, *arguments = command.split()
    tool = shutil.which(name, path=BINARIES) or shutil.which(name)
    if tool is None:
        pytest.skip(f"{name} is not installed")
    ended = subprocess.run([tool, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_image_has_the_ports_and_the_user_of_its_pods(name):
    tier = "gateway" if name == "gateway" else "model"
    ports = [str(port["containerPort"]) for port in CONTAINERS[tier]["ports"]]
    assert of(SHIPPED[name], "EXPOSE") == [" ".join(ports)]
    user = PODS[tier]["securityContext"]
    assert of(SHIPPED[name], "USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]


@pytest.mark.parametrize("name", SHIPPED)
def test_image_has_a_health_check_and_starts_without_a_shell(name):
    stage = SHIPPED[name]
    check = of(stage, "HEALTHCHECK")[-1].partition("CMD ")[2]
    for command in (*of(stage, "ENTRYPOINT"), *of(stage, "CMD"), check):
        assert isinstance(json.loads(command), list), "the exec form: signals meet no shell"


def test_ports_are_the_same_everywhere():
    assert "127.0.0.1:9697/livez" in of(GATEWAY, "HEALTHCHECK")[0]
    assert SERVICES["balancer"]["ports"] == ["${GATEWAY_PORT:-9696}:9696"]
    balancer = (ROOT / "compose/haproxy.cfg").read_text()
    assert re.search(r"bind :9696$", balancer, re.M)
    assert re.search(r"server-template \S+ \d+ gateway:9696 .* port 9697 ", balancer)
    for job, service, port in zip(JOBS, ("gateway", "model"), (9697, 8501), strict=True):
        [discovery] = job["dns_sd_configs"]
        assert (discovery["names"], discovery["port"]) == ([service], port)


def test_metrics_have_the_same_path_everywhere():
    in_image = re.search(r'path: "(.+)"', (ROOT / "serving/monitoring.txt").read_text())[1]
    for job, path in zip(JOBS, ("/metrics", in_image), strict=True):
        assert job.get("metrics_path", "/metrics") == path  # Prometheus' default
        monitor = manifest(f"components/monitoring/{job['job_name']}.yaml")
        assert [each["path"] for each in monitor["podMetricsEndpoints"]] == [path]


def test_model_servers_start_alike_and_in_pods_with_more_flags():
    assert of(SERVING, "CMD") == of(OWN, "CMD")
    assert len({of(stage, "HEALTHCHECK")[0] for stage in MODEL_SERVERS.values()}) == 1
    assert "serving /config" in of(OWN, "COPY") and "serving /config" in of(SERVING, "COPY")
    for file in re.findall(r'/config/([^"]+)', " ".join(of(OWN, "CMD") + of(OWN, "HEALTHCHECK"))):
        assert (ROOT / "serving" / file).exists()
    # Arguments in a manifest take the place of those in the image.
    assert set(json.loads(of(SERVING, "CMD")[0])) <= set(CONTAINERS["model"]["args"])


def test_openvinos_server_starts_as_in_the_cluster():
    [container] = manifest("components/openvino/model.yaml")["template"]["spec"]["containers"]
    flags = json.loads(of(MODEL_SERVERS["openvino"], "CMD")[0])
    limited = ',"INFERENCE_NUM_THREADS":"$(CPU_LIMIT)"'
    assert sorted(flags) == sorted(a.replace(limited, "") for a in container["args"])


def test_batch_takes_what_one_request_may_bring():
    batching = (ROOT / "serving/batching.txt").read_text()
    assert int(re.search(r"max_batch_size \{ value: (\d+)", batching)[1]) >= 32


@pytest.mark.parametrize("tier", PODS)
def test_compose_builds_the_images_of_the_pods(tier):
    build = SERVICES[tier]["build"]
    assert SERVICES[tier]["image"] == f"{CONTAINERS[tier]['image']}:${{TAG:-latest}}"
    assert build["dockerfile"] == f"Dockerfile.{tier}"
    declared = re.findall(r"^ARG (\w+)", (ROOT / build["dockerfile"]).read_text(), re.M)
    assert build["args"].keys() <= set(declared)
    assert build.get("target") == {"model": "${MODEL_TARGET:-serving}"}.get(tier)


def test_compose_gives_the_gateway_the_settings_of_its_pods():
    known = {PREFIX + name for name in defaults()}
    service = SERVICES["gateway"]
    image = dict(re.findall(r"(GATEWAY_\w+)=(\S+)", " ".join(of(GATEWAY, "ENV"))))
    there = image | service["environment"]
    assert there.keys() <= known
    pods = {each["name"]: each["value"] for each in CONTAINERS["gateway"]["env"]}
    assert there == pods | {"GATEWAY_PROXIES": "1"}  # the balancer; a Service is none
    place = there["GATEWAY_CONTRACT"]
    folder = place.removesuffix("/contract.json")
    assert service["volumes"] == [f"./models/${{MODEL_NAME:-starter}}:{folder}:ro"]


def test_compose_limits_memory_to_that_of_the_pods():
    limits = {name: service["mem_limit"] for name, service in SERVICES.items()}
    for tier, container in CONTAINERS.items():
        pod = container["resources"]["limits"]["memory"]
        default = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", limits[tier])
        assert default == pod.removesuffix("i").lower()


def test_compose_publishes_metrics_to_this_machine_only_and_without_a_known_password():
    for name in ("prometheus", "grafana"):
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"


def test_compose_mounts_files_that_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(\w+)\}", r"\1", volume).split(":")[0]
            if source.startswith("./") and not source.startswith("./models/"):
                assert (ROOT / source).is_file(), source
            assert source.startswith("./") or source in COMPOSE["volumes"]


def test_grafana_finds_the_dashboard():
    [dashboard] = [v for v in SERVICES["grafana"]["volumes"] if "dashboard.json" in v]
    place = Path(dashboard.split(":")[1])
    [provider] = yaml.safe_load((ROOT / "compose/grafana/dashboards.yaml").read_text())["providers"]
    assert str(place.parent) == provider["options"]["path"]
    variables = SERVICES["grafana"]["environment"]
    assert variables["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == str(place)


def test_gateways_memory_settings_are_the_same_everywhere():
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


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("state", "code"), [("AVAILABLE", 0), ("LOADING", 1), ("UNAVAILABLE", 1), (None, 1), ("", 1)]
)
def test_model_is_healthy_when_a_version_is_served(state, code):
    """The state None stands for a model that is not known, "" for a server that is away."""

    app = Flask("model")
    app.get("/v1/models/hats")(lambda: {"state": state} if state else ({}, 404))
    with serve(app) as address:
        port = "1" if state == "" else address.rpartition(":")[2]
        command = ["bash", ROOT / "serving/healthcheck.sh", port]
        ended = subprocess.run(
            command, env={"MODEL_NAME": "hats"}, stderr=subprocess.DEVNULL, timeout=10
        )
    assert ended.returncode == code
