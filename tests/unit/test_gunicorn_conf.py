"""gateway/gunicorn.conf.py: what keeps the gateway from starting is said in one line."""

import os
import re
import subprocess
import sys

import pytest

from tutorial.services import ROOT, STUBS

CONFIG = "-c gateway/gunicorn.conf.py"


def test_gunicorn_takes_fewer_connections_than_descriptors_and_trusts_no_caller(contract_file):
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 300; exec {sys.executable} -m gunicorn --print-config {CONFIG}"],
        cwd=ROOT,
        env=os.environ | {"GATEWAY_CONTRACT": str(contract_file), "PYTHONPATH": str(STUBS)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert re.search(r"^worker_connections += 150$", done.stdout, re.MULTILINE)
    assert re.search(r"^forwarded_allow_ips += \[\]$", done.stdout, re.MULTILINE)


def test_numpy_starts_no_threads_in_the_gateway(contract_file):
    code = (
        "import psutil, runpy; runpy.run_path('gateway/gunicorn.conf.py');"
        " import numpy; print(psutil.Process().num_threads())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"GATEWAY_CONTRACT": str(contract_file), "PYTHONPATH": str(STUBS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"


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
def test_gunicorn_says_in_one_line_why_it_cannot_start(contract_file, name, value, said):
    bad = contract_file.with_name("bad.json")
    bad.write_text("{}")
    settings = {"GATEWAY_CONTRACT": str(contract_file), "PYTHONPATH": str(STUBS)}
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", *CONFIG.split()],
        cwd=ROOT,
        env=os.environ | settings | {name: str(bad) if value == bad.name else value},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"gateway: {said[0]}")
    assert said[-1] in done.stderr
    assert done.stderr.count("\n") == 1
