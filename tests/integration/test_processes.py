"""tutorial.processes: what a notebook starts ends with it, however it ends."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutorial import ROOT, TutorialError
from tutorial.processes import start_server, wait_until

# A server with a child. They share a lock on FILE, which is free again when both have ended. A lock
# tells more than a process id: it is not given to another, and no zombie holds it.
HOLD = """
import fcntl, os, signal, sys, time
file, on_term = sys.argv[1:]
name = "server"
def term(*_):
    if on_term == "tidy":
        time.sleep(0.3)
        open(f"{file}.{name}-tidied", "w").close()
    if on_term != "ignore":
        if name == "server":
            os.wait()
        os._exit(3)
signal.signal(signal.SIGTERM, term)
handle = open(file, "w")
print(os.getpid(), "holds", os.path.basename(file), flush=True)
if not os.fork():
    name = "child"
    fcntl.flock(handle, fcntl.LOCK_EX)
while True:
    time.sleep(60)
"""


def hold_command(file, on_term="end"):
    return [sys.executable, "-S", "-c", HOLD, str(file), on_term]


def alive(file):
    with open(file, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def file(tmp_path):
    return tmp_path / "server"


@pytest.fixture
def start(tmp_path):
    """start_server for a process that holds a lock; ended after the test whatever happens."""
    servers = []

    def start(file, *, name=None, on_term="end", **options):
        options = {"ready": lambda: alive(file), "timeout": 10, **options}
        command = hold_command(file, on_term)
        server = start_server(name or file.name, command, log=tmp_path / "logs" / "log", **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def test_stop_ends_server_and_its_children(start, file):
    with start(file) as server:
        assert server.running
        assert server.exit_code is None
        assert os.getsid(server.supervisor.pid) != os.getsid(0)  # Ctrl-C is not for it
        assert " holds server\n" in server.log.read_text()
    assert not alive(file)
    assert not server.running
    server.stop()


def test_server_has_time_to_tidy_up(start, file):
    server = start(file, on_term="tidy")
    server.stop()
    assert Path(f"{file}.server-tidied").exists()
    assert Path(f"{file}.child-tidied").exists()
    assert server.exit_code == 3


def test_server_that_ignores_term_is_killed_after_grace(start, file):
    server = start(file, on_term="ignore", grace=0.5)
    began = time.monotonic()
    server.stop()
    assert not alive(file)
    assert 0.5 <= time.monotonic() - began < 5
    assert server.exit_code == 128 + signal.SIGKILL


def test_server_of_the_same_name_is_replaced(start, file, tmp_path):
    first = start(file, name="model server")
    second = start(tmp_path / "other", name="model server")
    assert not first.running
    assert not alive(file)
    assert second.running


def test_children_of_a_server_that_ends_by_itself_are_ended(start, file):
    server = start(file)
    pid = re.search(r"(\d+) holds server\n", server.log.read_text())[1]
    os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not server.running, timeout=5, what="the server to end")
    assert not alive(file)
    assert server.exit_code == 128 + signal.SIGKILL


def test_server_gets_environment_and_folder_and_no_input(tmp_path, monkeypatch):
    monkeypatch.setenv("OUTER", "from outside")
    code = (
        "import os, sys, time; assert sys.stdin.read() == '';"
        "print(os.environ['OUTER'], os.environ['ADDED'], os.getcwd(), flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    with start_server(
        "printer",
        [sys.executable, "-c", code],
        ready=lambda: log.read_text().endswith("\n"),
        log=log,
        env={"ADDED": "and added"},
        cwd=tmp_path,
        timeout=10,
    ):
        assert log.read_text() == f"from outside and added {tmp_path.resolve()}\n"


def test_start_server_shows_the_log_of_an_early_end(tmp_path):
    code = (
        "import sys; print('line', *range(100), sep='\\n', flush=True);"
        "sys.exit('no model at /nowhere')"
    )
    log, command = tmp_path / "log", [sys.executable, "-c", code]
    with pytest.raises(TutorialError) as caught:
        start_server("the model server", command, ready=lambda: False, log=log)
    message = str(caught.value)
    assert message.startswith("the model server ended with exit code 1 before it was ready. Last")
    assert f"Last lines of {log}:\n" in message
    assert message.endswith("\n98\n99\nno model at /nowhere")
    assert "line" not in message.split(":\n")[1]


def test_start_server_names_a_command_that_is_not_found(tmp_path):
    with pytest.raises(TutorialError, match="cannot run no-such-server: No such file"):
        start_server("it", ["no-such-server"], ready=lambda: False, log=tmp_path / "log")


def test_server_that_is_never_ready_is_ended(start, file):
    with pytest.raises(TutorialError, match=r"waited 2 s for server to start.*\n\d+ holds"):
        start(file, ready=lambda: alive(file) and False, timeout=2)
    assert not alive(file)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_server_is_ended_when_the_wait_for_it_is_interrupted(start, file, error):
    def ready():
        if alive(file):
            raise error
        return False

    with pytest.raises(error):
        start(file, ready=ready)
    assert not alive(file)


# Starts a server for each FILE, then another process that outlives it, and waits.
OWNER = """
import subprocess, sys
import tests.integration.test_processes as test
*files, outliving = sys.argv[1:]
for file in files:
    ready, command = lambda: test.alive(file), test.hold_command(file, "tidy")
    test.start_server(file, command, ready=ready, log=file + ".log", timeout=10)
process = subprocess.Popen(
    test.hold_command(outliving), close_fds=False, stdin=-3, stdout=-3, start_new_session=True
)
test.wait_until(lambda: test.alive(outliving), timeout=10, what="the outliving process")
print(process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, "calm"])
def test_servers_end_with_their_owner(tmp_path, ending):
    files = [tmp_path / "one", tmp_path / "two"]
    outliving = tmp_path / "outliving"
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, *files, outliving],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        group = int(owner.stdout.readline())
        try:
            assert all(map(alive, files))
            if ending == "calm":  # then it waits for them
                owner.stdin.close()
                owner.wait(10)
                assert not any(map(alive, files))
            else:
                owner.send_signal(ending)
                owner.wait(10)
                wait_until(lambda: not any(map(alive, files)), timeout=5, what="both to end")
            assert alive(outliving)
        finally:
            owner.kill()
            os.killpg(group, signal.SIGKILL)


def test_one_servers_pipe_does_not_hold_anothers(start, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first, second = start(one), start(two)
    first.supervisor.stdin.close()  # what the system does when the owner is killed
    wait_until(lambda: not first.running, timeout=5, what="the first to end")
    assert not alive(one)
    assert alive(two)
    second.supervisor.stdin.close()
    wait_until(lambda: not second.running, timeout=5, what="the second to end")
    assert not alive(two)


def test_cpu_seconds_count_the_children_of_a_server(tmp_path):
    busy = "import os, time; os.fork()\nwhile sum(os.times()[:2]) < 0.3: pass\ntime.sleep(60)"
    command = [sys.executable, "-c", busy]
    with start_server("busy", command, ready=lambda: True, log=tmp_path / "log") as server:
        wait_until(lambda: server.cpu_seconds() > 0.5, timeout=20, what="both to have worked")
        assert server.cpu_seconds() < 1
