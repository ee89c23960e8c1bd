"""Send traces of requests to a collector, if one is named."""

from collections.abc import Mapping

from flask import Flask, request


def wanted(environment: Mapping[str, str]) -> bool:
    """Return whether OpenTelemetry's variables name a collector."""
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{kind}ENDPOINT") for kind in ("", "TRACES_"))


def start(app: Flask) -> None:
    """Trace the app's requests and its calls of the model. Call it after any fork.

    OpenTelemetry's own variables say where to send traces, and under which name.
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
