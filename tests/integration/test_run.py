"""`make run` as a reader meets it: an answer, an orderly end, clear words when it cannot work."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tests.browser import drop_file, launch
from tutorial import ROOT, sources
from tutorial.processes import free_ports, port_open, wait_until

PORTS = ("gateway-port", "admin-port", "model-port")


@contextmanager
def run(*arguments: str, ports: dict[str, int]):
    """Run the command of `make run`, its output in one stream; end it with KILL."""
    options = [f"--{name}={port}" for name, port in ports.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tutorial.run", *options, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process, words: str) -> str:
    """Return the output up to the line with the words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.fixture
def ports() -> list[dict[str, int]]:
    """Free ports for two commands."""
    numbers = free_ports(2 * len(PORTS))
    return [dict(zip(PORTS, part, strict=True)) for part in (numbers[:3], numbers[3:])]


def all_closed(ports) -> bool:
    return not any(port_open(port) for port in ports.values())


def test_run_answers_on_a_page_and_in_a_shell_and_ends_at_ctrl_c(ports):
    from playwright.sync_api import expect

    with launch() as browser, run(ports=ports[0]) as process:
        said = read_until(process, "Ctrl-C")
        assert re.search(r"^ +t-shirt +\d", said, re.MULTILINE)  # the first and best of the answer

        [line] = re.findall(r"curl .+", said)
        answer = subprocess.run(
            shlex.split(line), cwd=ROOT, capture_output=True, text=True, check=True
        )
        scores = json.loads(answer.stdout)
        assert max(scores, key=scores.get) == "t-shirt"

        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{ports[0]['gateway-port']}/")
        drop_file(page, ROOT / "starter/samples/pants.jpg")
        expect(page.get_by_role("status").first).to_contain_text("This looks like: pants")
        expect(page.locator("#best li")).to_have_count(10)

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    assert all_closed(ports[0])


def test_two_runs_at_once_have_logs_of_their_own_and_leave_no_process(ports, starter_model):
    with run(ports=ports[0]) as one, run(ports=ports[1]) as other:
        for process, numbers in zip((one, other), ports, strict=True):
            assert "Converting" not in read_until(process, "Ctrl-C")
            log = ROOT / f"build/logs/run-{numbers['gateway-port']}.log"
            assert f"127.0.0.1:{numbers['gateway-port']}" in log.read_text()
        one.send_signal(signal.SIGTERM)
        assert one.wait(timeout=20) == 0
        assert all_closed(ports[0])
        other.kill()
        wait_until(lambda: all_closed(ports[1]), timeout=20, what="both servers to end")


def test_ctrl_c_during_a_conversion_is_one_line_and_leaves_no_model(ports):
    model = ROOT / "tests/data/keras27-nested-xception-tiny.h5"
    arguments = f"--model={model}", f"--labels={sources.CLOTHES}", "--preprocessing=tf"
    with run(*arguments, "--model-name=stopped", ports=ports[0]) as process:
        read_until(process, "Converting")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    assert (process.returncode, said) == (0, "\nStopped.\n")
    assert not (ROOT / "models/stopped").exists()
