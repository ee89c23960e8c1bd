"""Run a server for as long as its owner lives: python supervisor.py GRACE COMMAND...

The owner holds the other end of this process's standard input, and the system closes it however the
owner ends, SIGKILL included. Then, or on TERM, or when the server itself ends, its whole process
group gets TERM, and KILL after GRACE seconds. Exits with the server's code.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

INTERVAL = 0.05  # seconds between two looks at the server
PR_SET_CHILD_SUBREAPER = 36  # of Linux, see prctl(2)


def main(grace: float, command: list[str]) -> int:
    """Run `command` until it or its owner ends; return its exit code as a shell would."""
    signals: list[int] = []
    with contextlib.suppress(AttributeError):  # not on macOS
        # Become the parent of the server's orphans, as process 1 of a container may not reap them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: signals.append(number))
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    owner_ended = False
    while server.poll() is None and not signals and not owner_ended:
        owner_ended = any(select.select([sys.stdin], [], [], INTERVAL))
    end_group(server, grace)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def end_group(server: subprocess.Popen, grace: float) -> None:
    """End all processes of the server's group, and return when they are gone."""
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 1)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(server.pid, number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                os.killpg(server.pid, 0)  # raises when the group is gone (macOS: only zombies left)
                if server.poll() is not None:
                    with contextlib.suppress(ChildProcessError):
                        os.waitpid(-server.pid, os.WNOHANG)  # an orphan that has ended
                time.sleep(0.02)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
