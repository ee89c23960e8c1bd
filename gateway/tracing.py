"""Hand a request's id on to the model, and its trace to a collector where one is named.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

from collections.abc import Mapping

from flask import Flask, request

from gateway.logs import request_id


def metadata() -> tuple[tuple[str, str], ...]:
    """What goes with a call of the model: the id of the request at hand, where there is one."""
    current = request_id.get()
    return (("x-request-id", current),) if current else ()


ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables name a collector, and do not switch it off."""
    return environment.get("OTEL_SDK_DISABLED", "").lower() != "true" and any(
        environment.get(name) for name in ENDPOINTS
    )


def start(app: Flask) -> None:
    """Trace the app's requests and its calls of the model from now on; after any fork.

    Where to send traces, and under which name, OpenTelemetry reads from its own variables.
    """
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.grpc import GrpcInstrumentorClient
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    FlaskInstrumentor().instrument_app(app)

    @app.before_request
    def leave_out_query() -> None:
        trace.get_current_span().set_attribute("http.target", request.path)

    GrpcInstrumentorClient().instrument()  # every channel that is opened from now on
