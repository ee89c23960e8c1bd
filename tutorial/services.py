"""Start the project's servers, as lessons and tests need them, and find out about Docker."""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import grpc
import requests

from tutorial import ROOT, TutorialError
from tutorial.processes import Server, free_port, port_open, show, start_server

BUILD = ROOT / "build"
STUBS = BUILD / "stubs"
LOGS = Path(os.environ.get("TUTORIAL_LOGS", BUILD / "logs"))
# As in Dockerfile.gateway: glibc returns the memory of large pictures to the system.
MALLOC = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(16 * 2**20),
}

# Packages and image move together: requirements.txt states the version.
SERVING_IMAGE = f"tensorflow/serving:{version('tensorflow-serving-api')}"


def serving_has_an_image() -> bool:
    """Return whether there is a tensorflow/serving for this processor; for Arm there is none."""
    return platform.machine() in ("x86_64", "AMD64")


def model_target() -> str:
    """Return the target of Dockerfile.model: MODEL_TARGET, or what this processor can run."""
    default = "serving" if serving_has_an_image() else "model-server"
    return os.environ.get("MODEL_TARGET") or default


def docker_runs_serving() -> bool:
    """Return whether a Docker engine answers, and can run the tensorflow/serving image."""
    return model_target() == "serving" and _docker_knows("info")


def docker_composes() -> bool:
    """Return whether a Docker engine answers, and has Compose."""
    return _docker_knows("info") and _docker_knows("compose", "version")


def docker(command: str) -> None:
    """Run docker with `command` in the repository's folder, and print the command and its output.

    If no Docker engine answers, print only the command.
    """
    missing = None if _docker_knows("info") else "there is no Docker"
    show(f"docker {command}", ["docker", *shlex.split(command)], missing=missing)


def _docker_knows(*command: str) -> bool:
    if not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", *command], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def start_model_server(name: str, command: list[str], port: int) -> Server:
    """Run a model server's command; return when it answers over gRPC, with its model loaded."""
    log = LOGS / f"{name}.log"
    return start_server(name, command, ready=lambda: grpc_answers(port), log=log, timeout=120)


def model_server_command(model_folder: Path, port: int) -> list[str]:
    """Return the command of this project's own model server, for models/NAME."""
    model = (f"--model_name={model_folder.name}", f"--model_base_path={model_folder.resolve()}")
    return [sys.executable, "-m", "model_server", "--host=127.0.0.1", f"--port={port}", *model]


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

    `admin_port` is a free port by default. `settings` are further GATEWAY_ variables without that
    prefix and in lower case, such as `allowed_origins`.
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
    """Run several gateways in front of one model; return the server of each, by its address.

    `options` are those of `start_gateway`.
    """
    servers = {}
    for number in range(1, count + 1):
        port = free_port()
        server = start_gateway(port, name=f"gateway-{number}", **options)
        servers[f"http://127.0.0.1:{port}"] = server
    return servers


def compose(name: str) -> list[str]:
    """Return the start of a command of Compose for the containers called `name`-…"""
    return ["docker", "compose", "--project-name", name]


def start_compose(model_name: str, port: int, *, gateways: int = 1, name: str = "lesson") -> Server:
    """Build both images and run compose.yaml; return when the page answers on `port`.

    The images have the tag `lesson`. The containers are called `name`-gateway-1 and so on, and
    replace only those of the same `name`.

    Raises TutorialError if that fails, for example because an image cannot be downloaded.
    """
    try:
        return start_server(
            f"compose-{name}",
            [*compose(name), "up", "--build", "--scale", f"gateway={gateways}"],
            ready=lambda: http_status(f"http://127.0.0.1:{port}/") == 200,
            log=LOGS / f"compose-{name}.log",
            env={
                "MODEL_NAME": model_name,
                "MODEL_TARGET": model_target(),
                "TAG": "lesson",
                "GATEWAY_PORT": str(port),
            },
            cwd=ROOT,
            timeout=900,  # the first time, it downloads two base images and TensorFlow
            grace=60,
        )
    except TutorialError as error:
        raise TutorialError(
            f"{error}\nIf it cannot get the image tensorflow/serving, set MODEL_TARGET=model-server"
            " before you start the notebook. Without Docker on its PATH, the lesson uses processes."
        ) from None


def remove_containers(name: str = "lesson") -> None:
    """Remove the containers of `start_compose`, which have ended, and their network."""
    subprocess.run([*compose(name), "down"], cwd=ROOT, capture_output=True, check=True)


def start_picture_server(folder: Path, port: int) -> Server:
    """Serve the files of a folder over HTTP, so that lessons can download without internet."""
    return start_server(
        "pictures",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        ready=lambda: port_open(port),
        log=LOGS / "pictures.log",
        cwd=folder,
    )


def grpc_answers(port: int) -> bool:
    """Return whether a gRPC server answers. Docker opens a port before a server listens on it."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=1)
        except grpc.FutureTimeoutError:
            return False
    return True


def http_status(url: str) -> int | None:
    """Return the status with which a URL answers, or None if nothing answers."""
    try:
        return requests.get(url, timeout=5).status_code
    except requests.RequestException:
        return None
