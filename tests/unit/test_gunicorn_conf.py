"""gateway/gunicorn.conf.py: what keeps the gateway from starting is said in one line."""

import os
import subprocess
import sys

import pytest

from tutorial.services import ROOT, STUBS


def start(contract, **environment: str) -> subprocess.CompletedProcess:
    """Start gunicorn, which ends because something is wrong; return what it said."""
    return subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "gateway/gunicorn.conf.py"],
        cwd=ROOT,
        env=os.environ
        | {"GATEWAY_CONTRACT": str(contract), "PYTHONPATH": str(STUBS)}
        | environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("GATEWAY_THREADS", "x"), ("GATEWAY_CONTRACT", "nowhere"), ("GATEWAY_X", "1")],
)
def test_a_wrong_setting_ends_the_start_with_one_line(contract_file, name, value):
    done = start(contract_file, **{name: value})
    assert done.returncode == 1
    assert done.stderr.startswith(f"gateway: {name} is ")
    assert done.stderr.count("\n") == 1


def test_a_bad_contract_ends_the_start_with_one_line(contract_file):
    contract_file.write_text("{}")
    done = start(contract_file)
    assert done.returncode == 1
    assert done.stderr.startswith(f"gateway: cannot use the contract {contract_file}: missing")
    assert done.stderr.count("\n") == 1


def test_without_the_stubs_the_start_ends_with_one_line(contract_file):
    """TensorFlow is installed here; the gateway must not load it in place of the stubs."""
    done = start(contract_file, PYTHONPATH="")
    assert done.returncode == 1
    assert done.stderr.startswith("gateway: the gRPC stubs are not on PYTHONPATH")
    assert "python -m tutorial.build_stubs" in done.stderr
    assert done.stderr.count("\n") == 1
