"""Choose how many threads one operation gets, by measuring.

The operations of a small model are too short to be shared: with one thread each, a server answers
more requests, and each sooner. A large model makes a lone caller wait much longer then. So a model
is loaded both ways, and its first warm-up request is timed. That takes a second, or a few seconds
for a large model, which stays loaded both ways: a request that is alone gets all processors, and
several at once get one each.
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
from threading import Lock
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server import tensors, warmup
from model_server.engines import Engine, Feeds
from model_server.engines.folding import too_large
from model_server.servable import Servable

SECONDS = 0.15  # of each measurement
CLEAR = 1.1  # a difference larger than noise
QUICK = 0.05  # seconds: in a run as short as this, starting its operations is a part that counts

_log = logging.getLogger(__name__)


class Speed(NamedTuple):
    """How fast an engine answers a request."""

    alone: float  # seconds, if it is the only one
    together: float  # requests a second, with as many at once as there are processors
    pair: float = math.inf  # seconds of a run of two requests; measured where one is not QUICK


class TwoEngines:
    """A model that is loaded twice: for a run that is alone, and for several runs at once."""

    joins = True

    def __init__(self, alone: Engine, together: Engine):
        """Take over the engines: `close` closes them."""
        self.signatures, self.runs_at_once = together.signatures, together.runs_at_once
        self._engines = alone, together
        self._running, self._lock = 0, Lock()

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Do what Engine.run does."""
        with self._lock:
            engine = self._engines[min(self._running, 1)]
            self._running += 1
        try:
            return engine.run(feeds, fetches, timeout)
        finally:
            with self._lock:
                self._running -= 1

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        for engine in self._engines:
            engine.close()


def choose_threads(load: Callable[..., Engine], path: Path) -> Engine:
    """Load the SavedModel in `path`, with one thread for an operation, all processors', or both.

    `load` takes `threads`. Raises tf.errors.OpError, or what `load` raises.
    """
    requests, cpus = warmup.read(path), available_cpus()
    if cpus == 1 or not requests or too_large(path):
        return load(threads=cpus)
    engines: list[Engine] = []
    try:
        for threads in (1, cpus):
            engines.append(load(threads=threads))
        one, many = (measure(engine, requests, cpus) for engine in engines)
        if one.alone < CLEAR * many.alone:
            chosen, words = engines.pop(0), "1 thread for an operation"
        elif many.together > CLEAR * one.together:
            chosen, words = engines.pop(1), f"{cpus} threads for an operation"
        else:
            chosen = TwoEngines(engines.pop(1), engines.pop(0))
            words = f"{cpus} threads for an operation, 1 while several requests run"
        chosen.joins = one.alone < QUICK or one.pair < 2 * one.alone / CLEAR
        text = "%s: %s (1: %.1f ms alone, %.0f requests/s; %d: %.1f, %.0f)"
        figures = one.alone * 1000, one.together, cpus, many.alone * 1000, many.together
        _log.info(text, path, words, *figures)
        return chosen
    finally:
        for engine in engines:
            engine.close()


def measure(engine: Engine, requests: list[PredictRequest], cpus: int) -> Speed:
    """Run each request once, and the first for a while, alone and then in `cpus` threads.

    Metrics do not count these runs.
    """
    for request in reversed(requests):
        signature = Servable(engine).signature(request.model_spec.signature_name)
        inputs = signature.inputs
        feeds = {inputs[alias].name: tensors.read(it) for alias, it in request.inputs.items()}
        fetches = [output.name for output in signature.outputs.values()]
        engine.run(feeds, fetches, math.inf)  # the first run takes longer

    def times(feeds: Feeds, seconds: float = SECONDS) -> list[float]:
        found, end = [], time.monotonic() + seconds
        while not found or time.monotonic() < end:
            started = time.monotonic()
            engine.run(feeds, fetches, math.inf)
            found.append(time.monotonic() - started)
        return found

    alone, pair = median(times(feeds)), math.inf
    if alone >= QUICK:
        with suppress(ValueError, tf.errors.OpError):  # requests without rows cannot be joined
            twice = {name: np.concatenate([array] * 2) for name, array in feeds.items()}
            times(twice, 0)
            pair = median(times(twice))
    with ThreadPoolExecutor(cpus) as pool:
        list(pool.map(times, [feeds] * cpus, [0] * cpus))  # the first runs side by side take longer
        started = time.monotonic()
        count = sum(map(len, pool.map(times, [feeds] * cpus)))
        together = count / (time.monotonic() - started)
    return Speed(alone, together, pair)


def available_cpus() -> int:
    """Return the processors that this process may use, at most those of its container's limit."""
    cpus = os.cpu_count() or 1
    with suppress(AttributeError):  # macOS has no affinity
        cpus = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no control group, or no limit
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cpus = min(cpus, max(1, round(int(quota) / int(period))))
    return cpus
