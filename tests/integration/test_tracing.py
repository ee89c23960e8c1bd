"""The deployed gateway with a collector named: one trace goes to it, and on to the model."""

from tutorial.processes import wait_until
from tutorial.traces import TraceCollector

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def test_gateway_continues_the_clients_trace_to_the_model(start_gateway, fake_model, monkeypatch):
    with TraceCollector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
        answer = start_gateway().predict(headers=headers, params={"key": "secret"})
        assert answer.status_code == 200
        assert fake_model[0].metadata["traceparent"].split("-")[1] == TRACE
        wait_until(lambda: len(collector.trace(TRACE)) >= 2, timeout=10, what="two spans")
        spans = collector.trace(TRACE)
    names = {span.name for span in spans}
    assert any("/predict" in name for name in names), names
    assert any("PredictionService" in name for name in names), names
    assert "secret" not in str(spans)
