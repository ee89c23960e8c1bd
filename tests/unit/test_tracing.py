"""gateway/operations/tracing: only who names a collector pays for tracing."""

import subprocess
import sys

import pytest

from gateway.operations.tracing import wanted


@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_tracing_is_wanted_if_a_collector_is_named(environment, answer):
    assert wanted(environment) == answer


def test_opentelemetry_is_not_loaded_without_a_collector(root):
    code = (
        "import sys, gateway.operations.service;"
        " print([m for m in sys.modules if 'opentelemetry' in m])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True) == "[]\n"
