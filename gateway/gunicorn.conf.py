"""How gunicorn runs the gateway: one process with many threads; more of it by running more pods."""

import os

# Read by NumPy when it loads: the gateway multiplies no matrices, and each thread costs memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

wsgi_app = "gateway.app:create_app()"
bind = os.environ.get("GATEWAY_BIND", "0.0.0.0:9696")
worker_class = "gthread"
workers = 1
threads = 16
graceful_timeout = 20
