"""How gunicorn runs the gateway: one process with many threads; more of it by running more pods."""

import ctypes
import os
from contextlib import suppress

# Read by NumPy when it loads: the gateway multiplies no matrices, and each thread costs memory.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# How glibc keeps memory for its threads. What a large decoded picture took goes back to the system
# at once, else it keeps up to 64 MB for each thread that ever decoded one. Arrays of 1 MB, three or
# four for each request, are used again: fetching each anew took as long as all other work.
with suppress(AttributeError, OSError):  # other C libraries have no mallopt
    mallopt = ctypes.CDLL(None).mallopt
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
    mallopt(M_MMAP_THRESHOLD, 4 * 2**20)
    mallopt(M_TRIM_THRESHOLD, 16 * 2**20)
    mallopt(M_ARENA_MAX, 2)

wsgi_app = "gateway.app:create_app()"
bind = os.environ.get("GATEWAY_BIND", "0.0.0.0:9696")
worker_class = "gthread"
workers = 1
threads = 16
graceful_timeout = 20
