"""Configure gunicorn for the gateway: one process with many threads. To scale, run more pods."""

import importlib.util
import logging
import os
import resource
import socket
import sys
from pathlib import Path

# NumPy reads it when it loads. The gateway multiplies no matrices, and each thread costs memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# glibc reads it at the first lookup: an unanswered one ends with its request, and frees its thread.
os.environ.setdefault("RES_OPTIONS", "timeout:2 attempts:2")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its lines are not JSON; calls say what failed

from gunicorn import glogging

from gateway.contract import Contract
from gateway.errors import ContractError
from gateway.operations import logs
from gateway.operations.reference import Reference
from gateway.operations.settings import SettingsError, read_settings

logging.captureWarnings(True)  # Pillow warns about some files

stubs = importlib.util.find_spec("tensorflow")
if stubs is None or (Path(stubs.origin).parent / "python").exists():
    sys.exit(
        "gateway: the gRPC stubs are not on PYTHONPATH, or TensorFlow comes before them: run"
        " `python -m tutorial.build_stubs build/stubs` and set PYTHONPATH=build/stubs"
    )

try:
    settings = read_settings(os.environ)
    # Here: a worker would end with a traceback.
    Reference.beside(settings["CONTRACT"], Contract.read(settings["CONTRACT"]))
except (SettingsError, ContractError) as error:
    sys.exit(f"gateway: {error}")


class Logger(glogging.Logger):
    """Leave out gunicorn's line for each request: the gateway writes its own."""

    access_log_enabled = False


wsgi_app = "gateway.operations.service:from_environment()"
bind = settings["BIND"]
worker_class = "gateway.operations.worker.Worker"
workers = 1
threads = settings["THREADS"]
# Without a free file descriptor the worker would end; downloads and the model need some, too.
worker_connections = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
keepalive = 5  # seconds, also for a new connection's first byte
forwarded_allow_ips = ""  # GATEWAY_PROXIES says whose X-Forwarded-* count
graceful_timeout = 20
logger_class = Logger
logconfig_dict = logs.configuration(settings["LOG_LEVEL"])
control_socket_disable = True  # it is not used, and needs a folder to write to


def on_starting(arbiter):
    """Open the second port once; workers inherit it."""
    address = settings["ADMIN_BIND"]
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        arbiter.admin = socket.create_server((host.strip("[]"), int(port)), family=family)
    except OSError as error:
        sys.exit(f"gateway: GATEWAY_ADMIN_BIND: cannot listen on {address}: {error}")


def post_fork(arbiter, worker):
    """Give a new worker its time limit and the second port."""
    worker.patience = settings["MODEL_WAIT"] + settings["REQUEST_TIMEOUT"]
    worker.admin = arbiter.admin


def post_worker_init(worker):
    """Answer on the second port, now that the app is there."""
    from gateway.operations import health  # here: the arbiter stays small

    readiness = worker.wsgi.extensions["readiness"]
    registry = worker.wsgi.extensions["metrics"].registry
    admin = health.create_admin(readiness, registry, draining=lambda: not worker.alive)
    health.serve(admin, worker.admin)
