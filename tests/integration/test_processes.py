"""tutorial.processes: what a notebook starts ends with it, however it ends."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tutorial import TutorialError
from tutorial.processes import free_port, free_ports, port_open, start_server, wait_until

ROOT = Path(__file__).parents[2]

# Holds a lock on FILE for as long as it lives, and starts a child that holds one on FILE.child.
# A lock tells more than a process id: it is not given to another, and no zombie holds it.
HOLD = """
import fcntl, os, signal, subprocess, sys, time
code, file, on_term = sys.argv[1:]
child = None
if not file.endswith(".child"):
    child = subprocess.Popen([sys.executable, "-S", "-c", code, code, file + ".child", on_term])
def term(*_):
    if on_term == "tidy":
        time.sleep(0.3)
        open(file + ".tidied", "w").close()
    if on_term != "ignore":
        sys.exit(child.wait() if child else 3)
signal.signal(signal.SIGTERM, term)
handle = open(file, "w")
fcntl.flock(handle, fcntl.LOCK_EX)
print(os.getpid(), "holds", os.path.basename(file), flush=True)
while True:
    time.sleep(60)
"""


def hold_command(file, on_term="end"):
    return [sys.executable, "-S", "-c", HOLD, HOLD, str(file), on_term]


def alive(file):
    with open(file, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def all_alive(file):
    return alive(file) and alive(f"{file}.child")


def any_alive(file):
    return alive(file) or alive(f"{file}.child")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "server"


@pytest.fixture
def start(tmp_path):
    """start_server for a process that holds a lock; ended after the test whatever happens."""
    servers = []

    def start(file, *, name=None, on_term="end", **options):
        options = {"ready": lambda: all_alive(file), "timeout": 10, **options}
        command = hold_command(file, on_term)
        server = start_server(name or file.name, command, log=tmp_path / "logs" / "log", **options)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


def test_stop_ends_server_and_its_children(start, file):
    server = start(file)
    assert server.running
    assert server.exit_code is None
    assert os.getsid(server.supervisor.pid) != os.getsid(0)  # Ctrl-C in a terminal is not for it
    assert " holds server\n" in server.log.read_text()
    server.stop()
    assert not any_alive(file)
    assert not server.running
    server.stop()


def test_ends_with_the_block(start, file):
    with start(file) as server:
        assert server.running
    assert not any_alive(file)


def test_server_has_time_to_tidy_up(start, file):
    server = start(file, on_term="tidy")
    server.stop()
    assert Path(f"{file}.tidied").exists()
    assert Path(f"{file}.child.tidied").exists()
    assert server.exit_code == 3


def test_server_that_ignores_term_is_killed_after_grace(start, file):
    server = start(file, on_term="ignore", grace=0.5)
    began = time.monotonic()
    server.stop()
    assert not any_alive(file)
    assert 0.5 <= time.monotonic() - began < 5
    assert server.exit_code == 128 + signal.SIGKILL


def test_same_name_replaces(start, file, tmp_path):
    first = start(file, name="model server")
    second = start(tmp_path / "other", name="model server")
    assert not first.running
    assert not any_alive(file)
    assert second.running


def test_children_left_by_a_server_that_ends_by_itself_are_ended(start, file):
    server = start(file)
    pid = re.search(r"(\d+) holds server\n", server.log.read_text())[1]
    os.kill(int(pid), signal.SIGKILL)
    wait_until(lambda: not server.running, timeout=5, what="the server to end")
    assert not any_alive(file)
    assert server.exit_code == 128 + signal.SIGKILL


def test_environment_and_folder(tmp_path, monkeypatch):
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


def test_early_end_shows_the_log(tmp_path):
    code = "import sys; print('line', *range(100), sep='\\n'); sys.exit('no model at /nowhere')"
    with pytest.raises(TutorialError) as caught:
        start_server(
            "the model server",
            [sys.executable, "-c", code],
            ready=lambda: False,
            log=tmp_path / "log",
        )
    message = str(caught.value)
    assert message.startswith("the model server ended with exit code 1 before it was ready. Last")
    assert f"Last lines of {tmp_path / 'log'}:\n" in message
    assert message.endswith("\n98\n99\nno model at /nowhere")
    assert "line" not in message.split(":\n")[1]


def test_command_not_found(tmp_path):
    with pytest.raises(TutorialError, match="cannot run no-such-server: No such file"):
        start_server("it", ["no-such-server"], ready=lambda: False, log=tmp_path / "log")


def test_never_ready(start, file):
    with pytest.raises(TutorialError, match=r"waited 2 s in vain for server to start.*\n\d+ holds"):
        start(file, ready=lambda: all_alive(file) and False, timeout=2)
    assert not any_alive(file)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_interrupted_while_waiting(start, file, error):
    def ready():
        if all_alive(file):
            raise error
        return False

    with pytest.raises(error):
        start(file, ready=ready)
    assert not any_alive(file)


# Starts a server for each FILE, then a process of its own that outlives it, and waits.
OWNER = """
import subprocess, sys
import tests.integration.test_processes as test
from tutorial.processes import start_server
for file in sys.argv[1:-1]:
    ready = lambda: test.all_alive(file)
    start_server(file, test.hold_command(file, "tidy"), ready=ready, log=file + ".log", timeout=10)
outliving = subprocess.Popen(
    test.hold_command(sys.argv[-1]), close_fds=False, stdin=-3, stdout=-3, start_new_session=True
)
test.wait_until(lambda: test.all_alive(sys.argv[-1]), timeout=10, what="the outliving process")
print(outliving.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, "calm"])
def test_owner_ends(tmp_path, ending):
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
            assert all(all_alive(file) for file in files)
            if ending == "calm":
                owner.stdin.close()
            else:
                owner.send_signal(ending)
            owner.wait(10)
            if ending == "calm":  # then it has waited for them
                assert not any(any_alive(file) for file in files)
            for file in files:
                wait_until(lambda file=file: not any_alive(file), timeout=5, what=f"{file} to end")
            assert all_alive(outliving)
        finally:
            owner.kill()
            os.killpg(group, signal.SIGKILL)


def test_one_pipe_does_not_hold_the_other(start, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    first, second = start(one), start(two)
    first.supervisor.stdin.close()  # what the system does when the owner is killed
    wait_until(lambda: not first.running, timeout=5, what="the first to end")
    assert not any_alive(one)
    assert all_alive(two)
    second.supervisor.stdin.close()
    wait_until(lambda: not second.running, timeout=5, what="the second to end")
    assert not any_alive(two)


def test_free_port_and_port_open():
    port = free_port()
    assert not port_open(port)
    with socket.create_server(("127.0.0.1", port)):
        assert port_open(port)


def test_free_ports_differ():
    assert len(set(free_ports(50))) == 50


def test_cpu_seconds_count_the_children_of_a_server(start, tmp_path):
    busy = (
        "import os; os.fork(); print('runs', flush=True)\nwhile sum(os.times()[:2]) < 0.3: pass\n"
    )
    command = [sys.executable, "-c", busy + "import time; time.sleep(60)"]
    with start_server("busy", command, ready=lambda: True, log=tmp_path / "log") as server:
        wait_until(lambda: server.cpu_seconds() > 0.5, timeout=20, what="both to have worked")
        assert server.cpu_seconds() < 1


def test_wait_until_asks_until_it_is_so():
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), timeout=5, interval=0.01, what="nothing")
    with pytest.raises(TutorialError, match=r"waited 0.05 s in vain for the moon"):
        wait_until(lambda: False, timeout=0.05, interval=0.01, what="the moon")
