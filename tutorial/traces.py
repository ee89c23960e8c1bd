"""A collector of OpenTelemetry traces for one notebook."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class TraceCollector(ThreadingHTTPServer):
    """Receive traces over HTTP on a free port of this machine, and keep them.

    `url` is what OTEL_EXPORTER_OTLP_ENDPOINT wants.
    """

    def __init__(self) -> None:
        """Start to listen, in a thread that ends with the process."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.spans: list[Span] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def server_close(self) -> None:
        """Stop to listen."""
        self.shutdown()
        super().server_close()

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace received so far, in the order of their starts."""
        found = [span for span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


class Handler(BaseHTTPRequestHandler):
    """Give the spans of each request to the collector."""

    def do_POST(self) -> None:
        """Read the spans of one request."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""
