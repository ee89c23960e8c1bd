"""The deployed gateway with a collector named: one trace goes to it, and on to the model."""

import http.server
import queue
import threading

import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.pictures import png
from tutorial import services
from tutorial.processes import free_port


@pytest.fixture
def collector():
    """(its address, the queue of spans that came)."""
    spans = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans.put(span)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def test_one_trace_from_caller_to_model(collector, contract_file, fake_model, monkeypatch):
    address, spans = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    port = free_port()
    with services.start_gateway(port, model_address=fake_model[1], contract=contract_file):
        answer = requests.post(
            f"http://127.0.0.1:{port}/predict?key=secret",
            files={"file": png()},
            headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
            timeout=10,
        )
        assert answer.status_code == 200
        assert fake_model[0].metadata["traceparent"].split("-")[1] == trace
        ours = []
        while len(ours) < 2:
            span = spans.get(timeout=10)
            if span.trace_id.hex() == trace:
                ours.append(span)
    names = {span.name for span in ours}
    assert any("/predict" in name for name in names), names
    assert any("PredictionService" in name for name in names), names
    assert "secret" not in str(ours)
