"""Choose how many threads one operation gets, by measuring.

The operations of a small model are too short to be shared: with one thread each, a server answers
more requests, and each sooner. A large model makes a lone caller wait much longer then. So a model
is loaded both ways, and its first warm-up request is timed. That takes about a second.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server import tensors, warmup
from model_server.engines import Engine
from model_server.servable import Servable

SECONDS = 0.15  # of each measurement

_log = logging.getLogger(__name__)


class Speed(NamedTuple):
    """How fast an engine answers a request."""

    alone: float  # seconds, if it is the only one
    together: float  # requests a second, with as many at once as there are processors


def choose_threads(load: Callable[..., Engine], path: Path) -> Engine:
    """Load the SavedModel in `path`, with one thread for an operation or with all processors'.

    One thread is chosen if many callers gain more by it than a lone one loses. `load` takes
    `threads`. Raises tf.errors.OpError, or what `load` raises.
    """
    requests, cpus = warmup.read(path), available_cpus()
    if cpus == 1 or not requests:
        return load(threads=cpus)
    engines: list[Engine] = []
    try:
        for threads in (1, cpus):
            engines.append(load(threads=threads))
        one, many = (measure(engine, requests[0], cpus) for engine in engines)
        gain, loss = one.together / many.together, one.alone / many.alone
        chosen = 1 if gain > loss else cpus
        text = "%s: %d threads for an operation (1: %.1f ms alone, %.0f requests/s; %d: %.1f, %.0f)"
        milliseconds = one.alone * 1000, many.alone * 1000
        _log.info(
            text, path, chosen, milliseconds[0], one.together, cpus, milliseconds[1], many.together
        )
        return engines.pop(0 if chosen == 1 else 1)
    finally:
        for engine in engines:
            engine.close()


def measure(engine: Engine, request: PredictRequest, cpus: int) -> Speed:
    """Run the request for a while, alone and then in `cpus` threads; metrics do not count it."""
    signature = Servable(engine).signature(request.model_spec.signature_name)
    feeds = {signature.inputs[alias].name: tensors.read(it) for alias, it in request.inputs.items()}
    fetches = [output.name for output in signature.outputs.values()]
    engine.run(feeds, fetches, math.inf)  # the first run takes longer

    def times() -> list[float]:
        found, end = [], time.monotonic() + SECONDS
        while not found or time.monotonic() < end:
            started = time.monotonic()
            engine.run(feeds, fetches, math.inf)
            found.append(time.monotonic() - started)
        return found

    alone = median(times())
    started = time.monotonic()
    with ThreadPoolExecutor(cpus) as pool:
        runs = [pool.submit(times) for _ in range(cpus)]
        count = sum(len(run.result()) for run in runs)
    return Speed(alone, count / (time.monotonic() - started))


def available_cpus() -> int:
    """Return the processors that this process may use, at most those of its container's limit."""
    cpus = os.cpu_count() or 1
    with suppress(AttributeError):  # macOS has no affinity
        cpus = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no control group, or no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, round(int(quota) / int(period))))
    return cpus
