"""gateway/gunicorn.conf.py: what keeps the gateway from starting is said in one line."""

import os
import re
import subprocess
import sys

import pytest

from tutorial.services import ROOT, STUBS

GUNICORN = "-m gunicorn -c gateway/gunicorn.conf.py"


@pytest.fixture
def run(contract_file):
    """A function that runs a command with the gateway's environment, and returns how it ended."""

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
        needed = {"GATEWAY_CONTRACT": str(contract_file), "PYTHONPATH": str(STUBS)}
        env = os.environ | needed | environment
        return subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30
        )

    return run


def test_gunicorn_takes_fewer_connections_than_descriptors_and_trusts_no_caller(run):
    done = run("bash", "-c", f"ulimit -n 300; exec {sys.executable} {GUNICORN} --print-config")
    assert re.search(r"^worker_connections += 150$", done.stdout, re.MULTILINE)
    assert re.search(r"^forwarded_allow_ips += \[\]$", done.stdout, re.MULTILINE)


def test_numpy_starts_no_threads_in_the_gateway(run):
    code = (
        "import psutil, runpy; runpy.run_path('gateway/gunicorn.conf.py');"
        " import numpy; print(psutil.Process().num_threads())"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("GATEWAY_THREADS", "x", ["GATEWAY_THREADS is "]),
        ("GATEWAY_CONTRACT", "nowhere", ["GATEWAY_CONTRACT is "]),
        ("GATEWAY_X", "1", ["GATEWAY_X is "]),
        ("GATEWAY_CONTRACT", "bad.json", ["cannot use the contract", "bad.json: missing"]),
        # TensorFlow is installed here; the gateway must not load it in place of the stubs.
        ("PYTHONPATH", "", ["the gRPC stubs are not on PYTHONPATH", "tutorial.build_stubs"]),
    ],
)
def test_gunicorn_says_in_one_line_why_it_cannot_start(run, tmp_path, name, value, said):
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    done = run(
        sys.executable, *GUNICORN.split(), **{name: str(bad) if value == bad.name else value}
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"gateway: {said[0]}")
    assert said[-1] in done.stderr
    assert done.stderr.count("\n") == 1
