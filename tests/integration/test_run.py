"""`make run` as a person meets it: an answer, a calm ending, clear words when it cannot work."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.browser import drop_file, launch
from tutorial import services
from tutorial.processes import free_port, port_open, wait_until

STARTER = services.ROOT / "starter"


@contextmanager
def run(*arguments: str, ports: dict[str, int]):
    """`make run`'s command, its output in one stream; ended with KILL at the end of the block."""
    options = [f"--{name}={port}" for name, port in ports.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", "tutorial.run", *options, *arguments],
        cwd=services.ROOT,
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
    """The output up to the line with the words."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError("".join(lines))


@pytest.fixture
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("gateway-port", "admin-port", "model-port")}


def all_closed(ports) -> bool:
    return not any(port_open(port) for port in ports.values())


def test_an_answer_a_page_and_a_calm_ending(ports):
    with run(ports=ports) as process:
        said = read_until(process, "Ctrl-C")
        assert re.search(r"^ +t-shirt +\d", said, re.MULTILINE)  # the first and best of the answer

        [line] = re.findall(r"curl .+", said)
        answer = subprocess.run(
            shlex.split(line), cwd=services.ROOT, capture_output=True, text=True, check=True
        )
        scores = json.loads(answer.stdout)
        assert max(scores, key=scores.get) == "t-shirt"

        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    assert all_closed(ports)


def test_a_second_run_answers_soon(ports):
    begun = time.monotonic()
    with run(ports=ports) as process:
        said = read_until(process, "Ctrl-C")
        took = time.monotonic() - begun
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)
    assert "Converting" not in said
    assert took < 25, took
    assert all_closed(ports)


def test_no_process_stays_when_it_is_killed(ports):
    with run(ports=ports) as process:
        read_until(process, "Ctrl-C")
        process.kill()
        wait_until(lambda: all_closed(ports), timeout=20, what="both servers to end")


def test_the_page_in_a_real_browser(ports):
    from playwright.sync_api import expect

    with launch() as browser, run(ports=ports) as process:
        read_until(process, "Ctrl-C")
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{ports['gateway-port']}/")
        drop_file(page, STARTER / "samples/pants.jpg")
        expect(page.get_by_role("status").first).to_contain_text("This looks like: pants")
        expect(page.locator("#best li")).to_have_count(10)


@pytest.mark.parametrize("taken", ["gateway-port", "admin-port", "model-port"])
def test_a_port_in_use_is_named_with_the_way_out(taken, ports):
    import socket

    with socket.create_server(("127.0.0.1", ports[taken])), run(ports=ports) as process:
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 1
    variable = taken.upper().replace("-", "_")
    assert said.startswith(f"make run: port {ports[taken]} is in use")
    assert f"make run {variable}={ports[taken] + 1}" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "there is no file"), (b"not a model", "cannot be read as a Keras model")],
    ids=["missing", "broken"],
)
def test_a_model_that_cannot_be_used_is_one_clear_line(content, words, ports, tmp_path):
    path = tmp_path / "unusable_model.h5"
    if content is not None:
        path.write_bytes(content)
    with run(f"--model={path}", "--labels=a,b", ports=ports) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("make run: ")
    assert words in last
    assert not (services.ROOT / "models/unusable_model").exists()
