"""Start servers from a notebook that end when its kernel ends.

A kernel may be killed with SIGKILL, and then it cannot clean up. So each server runs under a small
supervisor in its own session, which notices that the kernel is gone (supervisor.py).
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from tutorial import ROOT, TutorialError

_SUPERVISOR = Path(__file__).resolve().with_name("supervisor.py")
_servers: dict[str, "Server"] = {}  # the latest of each name; keeps their pipes open


@dataclass(frozen=True)
class Server:
    """A server that `start_server` started. As a context manager it ends with the block."""

    supervisor: subprocess.Popen
    log: Path

    @property
    def running(self) -> bool:
        """Return whether the server has not ended yet."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """Return the server's exit code (128 + N if signal N ended it), None while it runs."""
        return self.supervisor.poll()

    def cpu_seconds(self) -> float:
        """Return the processor seconds of the server and its children so far."""
        processes = psutil.Process(self.supervisor.pid).children(recursive=True)
        return sum(sum(process.cpu_times()[:2]) for process in processes)  # user and system

    def stop(self) -> None:
        """End the server and its children, and return when they are gone."""
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
    """Start `command` and return when `ready()` is true. It ends when this process ends.

    A server with the same `name` is ended first. The file `log` gets what the server prints. `env`
    is added to this process's environment. When the server ends, it has `grace` seconds between
    TERM and KILL.

    Raises TutorialError, with the last lines of the log, if the server ends before it is ready, or
    is not ready after `timeout` seconds.
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
            code = server.exit_code
            raise TutorialError(f"{name} ended with exit code {code} before it was ready")
    except BaseException as error:  # also an interrupt by the reader
        server.stop()
        if not isinstance(error, TutorialError):
            raise
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise TutorialError(f"{error}. Last lines of {log}:\n{last}") from None
    return server


def wait_until(
    check: Callable[[], bool], *, timeout: float, interval: float = 0.1, what: str
) -> None:
    """Call `check` every `interval` seconds until it returns true.

    Raises TutorialError ("waited 5 s for `what`, and gave up") after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while not check():
        if time.monotonic() > deadline:
            raise TutorialError(f"waited {timeout:g} s for {what}, and gave up")
        time.sleep(interval)


def show(command: str, words: Sequence[str], *, missing: str | None) -> None:
    """Print `command`, run its `words` in the repository's folder, and print what they print.

    Print errors only if it fails. If something is `missing` on this machine, print that instead.
    """
    print("$", command)
    if missing:
        print(f"  (not run: {missing})")
        return
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    print((result.stdout + (result.stderr if result.returncode else "")).strip())


def free_port() -> int:
    """Return a TCP port on which nothing listens on this machine."""
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports on which nothing listens on this machine."""
    with ExitStack() as stack:  # holds all of them, so that no port is found twice
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        return [stack.enter_context(each).getsockname()[1] for each in sockets]


def port_open(port: int) -> bool:
    """Return whether something on this machine accepts TCP connections on `port`."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@atexit.register
def _stop_all() -> None:
    """Wait until the servers are gone, so that their ports are free again."""
    for server in _servers.values():
        server.stop()
