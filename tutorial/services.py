"""The project's servers as notebooks and tests start them, and whether Docker is there to help."""

import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import grpc

from tutorial import ROOT
from tutorial.processes import Server, free_port, free_ports, port_open, start_server

BUILD = ROOT / "build"
STUBS = BUILD / "stubs"
LOGS = Path(os.environ.get("TUTORIAL_LOGS", BUILD / "logs"))
# The gateway's, as in Dockerfile.gateway: glibc returns large pictures' memory to the system.
MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
}

# Packages and image move together: the lock pins the package, and the image has its version.
SERVING_IMAGE = f"tensorflow/serving:{version('tensorflow-serving-api')}"

COMPOSE = ("docker", "compose", "--project-name", "lesson")


def serving_has_an_image() -> bool:
    """Whether tensorflow/serving comes for this machine's processor; for Arm it does not."""
    return platform.machine() in ("x86_64", "AMD64")


def docker_runs_serving() -> bool:
    """Whether a Docker engine answers, on a processor that the tensorflow/serving image is for."""
    return serving_has_an_image() and _docker_knows("info")


def docker_composes() -> bool:
    """Whether a Docker engine answers, and has Compose."""
    return _docker_knows("info") and _docker_knows("compose", "version")


def _docker_knows(*command: str) -> bool:
    if not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", *command], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def start_model_server(name: str, command: list[str], port: int) -> Server:
    """Run a model server's command; return when it talks gRPC, which it does once a model is in."""
    return start_server(
        name,
        command,
        ready=lambda: grpc_answers(port),
        log=LOGS / f"{name}.log",
        timeout=120,
    )


def model_server_command(model_folder: Path, port: int) -> list[str]:
    """The command of this project's own model server, for models/NAME."""
    return [
        sys.executable,
        "-m",
        "model_server",
        f"--port={port}",
        f"--model_name={model_folder.name}",
        f"--model_base_path={model_folder.resolve()}",
    ]


def start_gateway(
    port: int,
    *,
    contract: Path,
    model_port: int = 8500,
    admin_port: int | None = None,
    name: str = "gateway",
    **settings: object,
) -> Server:
    """Run the gateway as it is deployed; return when /readyz says that it can answer.

    `admin_port` is by default a free one; `settings` are further GATEWAY_* variables, in lower case
    and without the prefix, such as `allowed_origins`.
    """
    admin_port = admin_port or free_port()
    settings = {
        "bind": f"127.0.0.1:{port}",
        "admin_bind": f"127.0.0.1:{admin_port}",
        "model_address": f"127.0.0.1:{model_port}",
        "contract": contract.resolve(),
        **settings,
    }
    return start_server(
        name,
        [sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gateway/gunicorn.conf.py")],
        ready=lambda: http_status(f"http://127.0.0.1:{admin_port}/readyz") == 200,
        log=LOGS / f"{name}.log",
        env={
            "PYTHONPATH": os.fspath(STUBS),
            **MALLOC,
            **{f"GATEWAY_{key.upper()}": str(value) for key, value in settings.items()},
        },
    )


def start_gateways(count: int, **options: object) -> dict[str, Server]:
    """Run several gateways in front of one model; return the address of each, and its server.

    They start side by side; `options` are `start_gateway`'s.
    """
    ports = free_ports(2 * count)

    def start(number: int) -> Server:
        port, admin_port = ports[2 * number : 2 * number + 2]
        return start_gateway(port, admin_port=admin_port, name=f"gateway-{number + 1}", **options)

    with ThreadPoolExecutor(count) as pool:
        servers = list(pool.map(start, range(count)))
    return {
        f"http://127.0.0.1:{port}": server for port, server in zip(ports[::2], servers, strict=True)
    }


def start_compose(model_name: str, port: int, *, gateways: int = 1) -> Server:
    """Build both images and run compose.yaml; return when the page answers on `port`.

    It is a project of its own, beside one that somebody may have running.
    """
    return start_server(
        "compose",
        [*COMPOSE, "up", "--build", "--scale", f"gateway={gateways}"],
        ready=lambda: http_status(f"http://127.0.0.1:{port}/") == 200,
        log=LOGS / "compose.log",
        env={
            "MODEL_NAME": model_name,
            "MODEL_TARGET": "serving" if serving_has_an_image() else "model-server",
            "TAG": "lesson",
            "GATEWAY_PORT": str(port),
        },
        cwd=ROOT,
        timeout=900,  # two base images and TensorFlow's wheel come first
        grace=60,
    )


def remove_containers() -> None:
    """Remove what `start_compose` left: containers that have ended, and their network."""
    subprocess.run([*COMPOSE, "down"], cwd=ROOT, capture_output=True, check=True)


def start_picture_server(folder: Path, port: int) -> Server:
    """Serve the files of a folder over HTTP, so that a download is a download, without internet."""
    return start_server(
        "pictures",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        ready=lambda: port_open(port),
        log=LOGS / "pictures.log",
        cwd=folder,
    )


def grpc_answers(port: int) -> bool:
    """Whether a gRPC server answers; Docker opens a container's port before anybody listens."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True


def http_status(url: str) -> int | None:
    """The status with which a URL answers; None while nothing does."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
