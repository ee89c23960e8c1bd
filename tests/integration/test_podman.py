"""The rendered manifests, played by Podman: what runs without a cluster's Services and probes.

Podman needs both images with the tag of the manifests: `make podman-test` builds them first.
"""

import json
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tutorial import kubernetes, podman
from tutorial.load import form
from tutorial.processes import free_ports, wait_until
from tutorial.services import ROOT

OBJECTS = kubernetes.render(ROOT / "k8s/overlays/kind")
SERVING = health_pb2.HealthCheckResponse.SERVING

pytestmark = pytest.mark.skipif(
    bool(podman.missing(OBJECTS)), reason=str(podman.missing(OBJECTS)) + ": make podman-test"
)


def command(*words: str) -> str:
    """What podman prints."""
    return subprocess.run(
        ["podman", *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture(scope="module")
def ports():
    """Both tiers, until the end of the tests: the ports of this machine by tier and name."""
    numbers = iter(free_ports(4))
    names = {"model": ("grpc", "rest"), "gateway": ("http", "admin")}
    found = {tier: {name: next(numbers) for name in names[tier]} for tier in names}
    command("network", "create", podman.NETWORK)
    try:
        for tier in names:
            podman.play(OBJECTS, tier, found[tier])
        wait_until(lambda: probe("gateway", "readinessProbe", found), timeout=60, what="a gateway")
        yield found
    finally:
        command("pod", "rm", "--force", *(f"{tier}-pod-0" for tier in names))
        command("network", "rm", podman.NETWORK)


def container(tier: str) -> dict:
    """The container of a Deployment in the manifests."""
    return podman.container(kubernetes.find(OBJECTS, "Deployment", tier))


def probe(tier: str, name: str, ports: dict) -> bool:
    """Ask as a cluster does for this probe of the manifest; return whether it succeeds."""
    question = container(tier)[name]
    if get := question.get("httpGet"):
        try:
            url = f"http://127.0.0.1:{ports[tier][get['port']]}{get['path']}"
            return requests.get(url, timeout=2).ok
        except requests.RequestException:
            return False
    numbers = {port["containerPort"]: port["name"] for port in container(tier)["ports"]}
    port = ports[tier][numbers[question["grpc"]["port"]]]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    return answer.status == SERVING


@pytest.mark.parametrize("tier", ["model", "gateway"])
def test_container_has_the_rights_of_its_manifest(ports, tier):
    name = f"{tier}-pod-0-{tier}"
    assert command("exec", name, "id", "-u") == "65532"
    status = command("exec", name, "grep", "-E", "CapEff|NoNewPrivs", "/proc/1/status")
    assert status.split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"]
    with pytest.raises(subprocess.CalledProcessError) as refused:
        command("exec", name, "touch", "/app/file")
    assert "Read-only file system" in refused.value.stderr
    command("exec", name, "touch", "/tmp/file")

    [found] = json.loads(command("inspect", name))
    limits = container(tier)["resources"]["limits"]
    memory = int(limits["memory"][:-2]) << {"Mi": 20, "Gi": 30}[limits["memory"][-2:]]
    assert found["HostConfig"]["Memory"] == memory


@pytest.mark.parametrize("tier", ["model", "gateway"])
@pytest.mark.parametrize("name", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probe_succeeds(ports, tier, name):
    assert probe(tier, name, ports)


def test_gateway_predicts_through_the_model(ports):
    files = {"file": (ROOT / "starter/samples/t-shirt.jpg").read_bytes()}
    url = f"http://127.0.0.1:{ports['gateway']['http']}/predict"
    scores = requests.post(url, files=files, timeout=10).json()
    assert max(scores, key=scores.get) == "t-shirt"


def test_gateway_finishes_its_request_after_term(ports):
    body, content_type = form((ROOT / "starter/samples/t-shirt.jpg").read_bytes())
    head = (
        f"POST /predict HTTP/1.1\r\nHost: gateway\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    address = ("127.0.0.1", ports["gateway"]["http"])
    with socket.create_connection(address, timeout=10) as client, ThreadPoolExecutor() as pool:
        client.sendall(head.encode() + body[:-100])
        stopping = pool.submit(command, "stop", "--time", "30", "gateway-pod-0-gateway")
        wait_until(lambda: not probe("gateway", "readinessProbe", ports), timeout=10, what="TERM")
        client.sendall(body[-100:])
        assert client.recv(20).startswith(b"HTTP/1.1 200")
        stopping.result()
    [found] = json.loads(command("inspect", "gateway-pod-0-gateway"))
    assert found["State"]["ExitCode"] == 0
