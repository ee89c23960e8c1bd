"""How gunicorn runs the gateway: one process with many threads; more of it by running more pods."""

import ctypes
import os
from contextlib import suppress

# Read by NumPy when it loads: the gateway multiplies no matrices, and each thread costs memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# What a decoded picture took goes back to the system at once. Without this, glibc keeps up to 64 MB
# for each thread that ever decoded one.
with suppress(AttributeError, OSError):  # other C libraries have no mallopt
    M_MMAP_THRESHOLD = -3
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)

wsgi_app = "gateway.app:create_app()"
bind = os.environ.get("GATEWAY_BIND", "0.0.0.0:9696")
worker_class = "gthread"
workers = 1
threads = 16
graceful_timeout = 20
control_socket_disable = True  # nobody listens to it, and it wants a folder to write to
