"""Servers that a notebook starts, and that end with it however it ends.

A kernel may be killed with SIGKILL, when no clean-up of its own runs. So each server runs under a
small supervisor in a session of its own, which notices when the kernel is gone (supervisor.py).
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from tutorial import TutorialError

_SUPERVISOR = Path(__file__).resolve().with_name("supervisor.py")
_servers: dict[str, "Server"] = {}  # the latest of each name; also keeps their pipes open


@dataclass(frozen=True)
class Server:
    """A server started by `start_server`; as a context manager it ends with the block."""

    supervisor: subprocess.Popen
    log: Path

    @property
    def running(self) -> bool:
        """Whether the server has not ended yet."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """The server's exit code (128 + N if signal N ended it), None while it runs."""
        return self.supervisor.poll()

    def cpu_seconds(self) -> float:
        """Processor time that the server and its children have taken so far, the system's too."""
        processes = psutil.Process(self.supervisor.pid).children(recursive=True)
        times = [process.cpu_times() for process in processes]
        return sum(each.user + each.system for each in times)

    def stop(self) -> None:
        """End the server and its children, and return when they are gone; twice does no harm."""
        self.supervisor.stdin.close()
        self.supervisor.terminate()  # a fork of this process may hold the pipe open still
        self.supervisor.wait()

    def __enter__(self) -> "Server":
        """Return the server, which is ready."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        self.stop()


def start_server(
    name: str,
    command: Sequence[str],
    *,
    ready: Callable[[], bool],
    log: str | Path,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float = 60.0,
    grace: float = 5.0,
) -> Server:
    """Start `command` and return when `ready()` is true; it ends when this process does.

    A server that was started under the same `name` is ended first. `log` gets what the server
    prints, `env` is added to this process's environment, and an ending server has `grace` seconds
    between TERM and KILL.

    Raises TutorialError, with the log's last lines, if the server ends before it is ready, or is
    not ready after `timeout` seconds; whatever the exception, the server is ended first.
    """
    if previous := _servers.pop(name, None):
        previous.stop()
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", _SUPERVISOR, str(grace), *command],  # -I -S: starts fast
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,  # Ctrl-C in a terminal reaches this process only
        )
    server = _servers[name] = Server(process, log)
    try:
        wait_until(lambda: not server.running or ready(), timeout=timeout, what=f"{name} to start")
        if not server.running:
            raise TutorialError(
                f"{name} ended with exit code {server.exit_code} before it was ready"
            )
    except TutorialError as error:
        server.stop()
        raise TutorialError(f"{error}. {_last_lines(log)}") from None
    except BaseException:
        server.stop()
        raise
    return server


def wait_until(
    check: Callable[[], bool], *, timeout: float, interval: float = 0.1, what: str
) -> None:
    """Return as soon as `check()` is true, asked every `interval` seconds.

    Raises TutorialError ("waited 5 s in vain for `what`") after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise TutorialError(f"waited {timeout:g} s in vain for {what}")
        time.sleep(interval)


def free_port() -> int:
    """Return a TCP port on which nothing listens on this machine."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return so many different ports on which nothing listens on this machine."""
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [listener.getsockname()[1] for listener in listeners]


def port_open(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether something accepts TCP connections on `port`."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def _last_lines(log: Path, count: int = 15) -> str:
    with log.open(errors="replace") as file:
        lines = deque(file, maxlen=count)
    if not lines:
        return f"Its log {log} is empty"
    return f"Last lines of {log}:\n{''.join(lines).rstrip()}"


@atexit.register
def _stop_all() -> None:
    """At a calm ending, wait until the servers are gone: their ports are then free again."""
    for server in _servers.values():
        server.stop()
