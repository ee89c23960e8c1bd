"""Metrics for Prometheus, under TensorFlow Serving's names and with its labels and buckets."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import prometheus_client
import tensorflow as tf

MOST_NAMES = 1000  # model names in labels: requests can invent any number of them

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}  # the same as TensorFlow's

prometheus_client.disable_created_metrics()
_registry = prometheus_client.CollectorRegistry()
_requests = prometheus_client.Counter(
    ":tensorflow:serving:request_count", "Requests", ["model_name", "status"], registry=_registry
)
_request_latency = prometheus_client.Histogram(
    ":tensorflow:serving:request_latency",
    "Microseconds that answered requests took",
    ["model_name", "API", "entrypoint"],
    buckets=[float(f"{10 * 1.8**i:.6g}") for i in range(33)],  # from 10 us to 25 min
    registry=_registry,
)
_runs = prometheus_client.Counter(
    ":tensorflow:core:graph_runs", "Runs of models", registry=_registry
)
_run_time = prometheus_client.Counter(
    ":tensorflow:core:graph_run_time_usecs", "Microseconds that runs took", registry=_registry
)
_names: set[str] = set()


@contextmanager
def request(model_name: str, api: str, entrypoint: str) -> Iterator[None]:
    """Count a request that is answered within this context, and its duration if it succeeds."""
    if len(_names) < MOST_NAMES:
        _names.add(model_name)
    name = model_name if model_name in _names else "(others)"
    started = time.perf_counter()
    try:
        yield
    except tf.errors.OpError as error:
        _requests.labels(name, _CODES[error.error_code]).inc()
        raise
    _requests.labels(name, "OK").inc()
    _request_latency.labels(name, api, entrypoint).observe((time.perf_counter() - started) * 1e6)


@contextmanager
def graph_run() -> Iterator[None]:
    """Count a run of a model, and its duration."""
    started = time.perf_counter()
    yield
    _runs.inc()
    _run_time.inc((time.perf_counter() - started) * 1e6)


def page() -> str:
    """Return all metrics in Prometheus' text format.

    The client adds _total to the names of counters; TensorFlow Serving's have none.
    """
    text = prometheus_client.generate_latest(_registry).decode()
    return re.sub(r"^((?:# \w+ )?:tensorflow:[\w:]+)_total\b", r"\1", text, flags=re.MULTILINE)
