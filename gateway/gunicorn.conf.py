"""How gunicorn runs the gateway: one process with many threads; more of it by running more pods."""

import os
import socket
import sys

from gunicorn import glogging

from gateway import logs, memory
from gateway.contract import Contract, ContractError
from gateway.settings import Settings, SettingsError

# Read by NumPy when it loads: the gateway multiplies no matrices, and each thread costs memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

memory.configure()

try:
    settings = Settings.from_environment(os.environ)
    Contract.read(settings.contract)  # here: a worker would end with a traceback
except (SettingsError, ContractError) as error:
    sys.exit(f"gateway: {error}")


class Logger(glogging.Logger):
    """gunicorn's, without its line for each request: the gateway writes one of its own."""

    access_log_enabled = False


wsgi_app = "gateway.service:create_service()"
bind = settings.bind
worker_class = "gateway.worker.Worker"
workers = 1
threads = settings.threads
graceful_timeout = 20
logger_class = Logger
logconfig_dict = logs.configuration(settings.log_level)
control_socket_disable = True  # nobody listens to it, and it wants a folder to write to


def on_starting(arbiter):
    """Open the second port once; workers inherit it, and may come and go."""
    host, _, port = settings.admin_bind.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    try:
        arbiter.admin = socket.create_server((host.strip("[]"), int(port)), family=family)
    except OSError as error:
        sys.exit(f"gateway: GATEWAY_ADMIN_BIND: cannot listen on {settings.admin_bind}: {error}")


def post_fork(arbiter, worker):
    """Tell a new worker what it is to know before it begins."""
    worker.patience = settings.request_timeout
    worker.admin = arbiter.admin


def post_worker_init(worker):
    """Answer on the second port, now that the service is there."""
    from gateway import health  # in the worker: the arbiter stays small

    service = worker.wsgi
    admin = health.Admin(service.readiness, service.metrics.registry, lambda: not worker.alive)
    health.serve(admin, worker.admin)
