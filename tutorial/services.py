"""The project's servers as notebooks and tests start them, and whether Docker is there to help."""

import os
import platform
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.metadata import version
from pathlib import Path

import grpc

from tutorial.processes import Server, free_port, port_open, start_server

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
STUBS = BUILD / "stubs"

# Packages and image move together: the lock pins the package, and the image has its version.
SERVING_IMAGE = f"tensorflow/serving:{version('tensorflow-serving-api')}"


def docker_runs_serving() -> bool:
    """Whether a Docker engine answers, on a processor that the tensorflow/serving image is for."""
    if platform.machine() not in ("x86_64", "AMD64") or not shutil.which("docker"):
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=10).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def start_model_server(name: str, command: list[str], port: int) -> Server:
    """Run a model server's command; return when it talks gRPC, which it does once a model is in."""
    return start_server(
        name,
        command,
        ready=lambda: grpc_answers(port),
        log=BUILD / "logs" / f"{name}.log",
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
        log=BUILD / "logs" / f"{name}.log",
        env={
            "PYTHONPATH": os.fspath(STUBS),
            **{f"GATEWAY_{key.upper()}": str(value) for key, value in settings.items()},
        },
    )


def start_picture_server(folder: Path, port: int) -> Server:
    """Serve the files of a folder over HTTP, so that a download is a download, without internet."""
    return start_server(
        "pictures",
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        ready=lambda: port_open(port),
        log=BUILD / "logs" / "pictures.log",
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
