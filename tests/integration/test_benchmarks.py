"""A benchmark runs with what the gateway and the model server are today."""

import json
import subprocess
import sys


def test_gateway_benchmark_measures_uploads_and_urls_as_uint8_and_as_float32(root, tmp_path):
    output = tmp_path / "gateway.json"
    command = [sys.executable, "-m", "benchmarks.gateway", f"--output={output}"]
    subprocess.run(
        [*command, "--rounds=1", "--requests=2", "--only", "requests"], cwd=root, check=True
    )
    found = json.loads(output.read_text())["requests"]["cpu_ms"]
    assert set(found) == {"floor", "upload", "url", "upload as float32", "url as float32"}
