"""Metrics, under TensorFlow Serving's names and with its labels and buckets.

prometheus_client counts; the page is written here, because the client would add _total to the names
of counters and turn bucket limits like 10 into 10.0.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Histogram

from model_server import config

DEFAULT_PATH = "/monitoring/prometheus/metrics"
MOST_NAMES = 1000  # model names in labels: requests may invent any number of them

_REGISTRY = CollectorRegistry()
_SHOWN: dict[str, str] = {}  # the names of counters, by what the client calls them
_MICROSECONDS = [10 * 1.8**i for i in range(33)]  # from 10 us to 25 min
_CODES = {
    getattr(tf.errors, name): name
    for name in dir(tf.errors)
    if name.isupper() and isinstance(getattr(tf.errors, name), int)
}


def _counter(name: str, help_: str, *labels: str) -> Counter:
    counter = Counter(f":tensorflow:{name}", help_, labels, registry=_REGISTRY)
    _SHOWN[f":tensorflow:{name.removesuffix('_total')}"] = f":tensorflow:{name}"
    return counter


def _histogram(name: str, help_: str, buckets: list[float], *labels: str) -> Histogram:
    return Histogram(f":tensorflow:{name}", help_, labels, buckets=buckets, registry=_REGISTRY)


_requests = _counter("serving:request_count", "Requests", "model_name", "status")
_request_latency = _histogram(
    "serving:request_latency",
    "Microseconds that answered requests took",
    _MICROSECONDS,
    "model_name",
    "API",
    "entrypoint",
)
_runtime_latency = _histogram(
    "serving:runtime_latency",
    "Microseconds that the model took, reading inputs and writing outputs included",
    _MICROSECONDS,
    "model_name",
    "API",
    "runtime",
)
_examples = _counter("serving:request_example_count_total", "tf.Examples in requests", "model")
_examples_per_request = _histogram(
    "serving:request_example_counts", "tf.Examples per request", [2**i for i in range(15)], "model"
)
_warmup_latency = _histogram(
    "serving:model_warmup_latency",
    "Microseconds that warming up a version took",
    _MICROSECONDS,
    "model_path",
    "status",
)
_loads = _counter("cc:saved_model:load_attempt_count", "Loaded versions", "model_path", "status")
_load_latency = _counter(
    "cc:saved_model:load_latency", "Microseconds that loading took", "model_path"
)
_runs = _counter("core:graph_runs", "Runs of models")
_run_time = _counter("core:graph_run_time_usecs", "Microseconds that runs of models took")
_names: set[str] = set()


@contextmanager
def request(model_name: str, api: str, entrypoint: str) -> Iterator[None]:
    """Count a request that is answered within this context, and its duration if it succeeds."""
    name = _bounded(model_name)
    with _timed() as elapsed:
        try:
            yield
        except tf.errors.OpError as error:
            _requests.labels(name, _CODES.get(error.error_code, "UNKNOWN")).inc()
            raise
    _requests.labels(name, "OK").inc()
    _request_latency.labels(name, api, entrypoint).observe(elapsed[0])


@contextmanager
def runtime(model_name: str, api: str) -> Iterator[None]:
    """Measure how long a model takes for a request, if it answers it."""
    with _timed() as elapsed:
        yield
    _runtime_latency.labels(model_name, api, "TF1").observe(elapsed[0])


@contextmanager
def run() -> Iterator[None]:
    """Count a run of a model's graph, and its duration."""
    with _timed() as elapsed:
        yield
    _runs.inc()
    _run_time.inc(elapsed[0])


@contextmanager
def load(path: Path) -> Iterator[None]:
    """Count an attempt to load a version, and its duration if it succeeds."""
    with _timed() as elapsed:
        try:
            yield
        except BaseException:
            _loads.labels(str(path), "fail").inc()
            raise
    _loads.labels(str(path), "success").inc()
    _load_latency.labels(str(path)).inc(elapsed[0])


@contextmanager
def warmup(path: Path) -> Iterator[None]:
    """Measure how long the warm-up of a version takes."""
    with _timed() as elapsed:
        yield
    _warmup_latency.labels(str(path), "OK").observe(elapsed[0])


def examples(model_name: str, count: int) -> None:
    """Count the tf.Examples of a request."""
    _examples.labels(model_name).inc(count)
    _examples_per_request.labels(model_name).observe(count)


def page() -> str:
    """Return all metrics in Prometheus' text format."""
    lines = []
    for family in _REGISTRY.collect():
        shown = _SHOWN.get(family.name)
        lines.append(f"# TYPE {shown or family.name} {family.type}")
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = dict(sample.labels)
            if labels.get("le", "+Inf") != "+Inf":
                labels["le"] = f"{float(labels['le']):.6g}"
            text = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
            value = int(sample.value) if sample.value.is_integer() else sample.value
            lines.append(f"{shown or sample.name}{{{text}}} {value}")
    return "\n".join(lines) + "\n"


def read_path(file: Path) -> str | None:
    """Return the page's path if a --monitoring_config_file enables it. Raises tf.errors.OpError."""
    message = _config_message()
    config.read(file, message)
    prometheus = message.prometheus_config
    return (prometheus.path or DEFAULT_PATH) if prometheus.enable else None


def _config_message() -> Message:
    """Return an empty tensorflow.serving.MonitoringConfig, which tensorflow-serving-api lacks."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="model_server/monitoring_config.proto", package="tensorflow.serving", syntax="proto3"
    )
    prometheus = file.message_type.add(name="PrometheusConfig")
    prometheus.field.add(name="enable", number=1, type=field.TYPE_BOOL, label=field.LABEL_OPTIONAL)
    prometheus.field.add(name="path", number=2, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    file.message_type.add(name="MonitoringConfig").field.add(
        name="prometheus_config",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.serving.PrometheusConfig",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    name = "tensorflow.serving.MonitoringConfig"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Measure in microseconds how long the context lasts: the list's one element afterwards."""
    started, elapsed = time.perf_counter(), []
    yield elapsed
    elapsed.append((time.perf_counter() - started) * 1e6)


def _bounded(model_name: str) -> str:
    if len(_names) < MOST_NAMES:
        _names.add(model_name)
    return model_name if model_name in _names else "(others)"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
