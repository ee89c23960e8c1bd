"""Define the metrics that Prometheus collects from a gateway."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 8)  # seconds


class Metrics:
    """Hold the metrics of one gateway, in their own registry."""

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=BUCKETS, registry=registry)
        self.in_flight = Gauge("gateway_in_flight", "Requests being handled", registry=registry)
        self.limit = Gauge(
            "gateway_limit", "Requests that may be handled at once", registry=registry
        )
        self.requests = counter("gateway_requests", "Requests answered", ("path", "status"))
        self.rejected = counter(
            "gateway_rejected", "Requests without the answer wanted", ("reason",)
        )
        self.cancelled = counter(
            "gateway_cancelled", "Requests that ended at a stage, unanswered", ("stage", "reason")
        )
        self.cancelled_seconds = counter(
            "gateway_cancelled_seconds",
            "Seconds of their stages: wasted before that; saved, the least that the rest takes",
            ("work",),
        )
        self.request_seconds = histogram(
            "gateway_request_seconds",
            "Seconds from a request's headers to the end of its answer",
            ("path",),
        )
        self.stage_seconds = histogram(
            "gateway_stage_seconds", "Seconds that a stage of a request took", ("stage",)
        )
