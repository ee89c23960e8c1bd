"""What Prometheus collects of a gateway.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from gateway.deadline import DeadlineError
from gateway.fetch import BlockedError
from gateway.images import BusyError, ImageError
from gateway.model_client import ModelMismatchError

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8)  # seconds


class Metrics:
    """The counters, gauges and histograms of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "gateway_requests", "Requests answered", ("path", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "gateway_request_seconds",
            "Seconds from a request's headers to the end of its answer",
            ("path",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "gateway_stage_seconds",
            "Seconds that a stage of a request took",
            ("stage",),
            buckets=BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge("gateway_in_flight", "Requests being handled", registry=registry)
        self.rejected = Counter(
            "gateway_rejected", "Requests without the answer wanted", ("reason",), registry=registry
        )


REASONS = (  # the first that fits
    (BlockedError, "blocked_address"),
    (ImageError, "bad_picture"),
    (BusyError, "busy_decoding"),
    (DeadlineError, "out_of_time"),
    (ModelMismatchError, "model_mismatch"),
)
MODEL_REASONS = {
    grpc.StatusCode.UNAVAILABLE: "model_unavailable",
    grpc.StatusCode.NOT_FOUND: "model_unavailable",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "model_busy",
    grpc.StatusCode.DEADLINE_EXCEEDED: "model_too_slow",
}


def reason(error: Exception) -> str | None:
    """The label for an exception with which a request ended; None for what is no rejection."""
    if isinstance(error, grpc.RpcError):
        return MODEL_REASONS.get(error.code(), "model_error")
    return next((name for kind, name in REASONS if isinstance(error, kind)), None)
