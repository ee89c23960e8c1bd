"""Run a server for as long as its owner lives: python supervisor.py GRACE COMMAND...

The owner holds the other end of this process's standard input, and the system closes it however the
owner ends, SIGKILL included. Then, or on TERM, or when the server itself ends, its whole process
group gets TERM, and KILL after GRACE seconds. Exits with the server's code.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable


def main(grace: float, command: list[str]) -> int:
    """Run `command` until it or its owner ends; return its exit code as a shell would."""
    over, end = os.pipe()
    os.set_blocking(end, False)
    signal.set_wakeup_fd(end)  # a handler in Python can miss the moment before we wait
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def note_end_of(wait: Callable[[], object]) -> None:
        wait()
        os.write(end, b"x")

    for wait in (server.wait, lambda: os.read(0, 1)):
        threading.Thread(target=note_end_of, args=(wait,), daemon=True).start()
    os.read(over, 1)
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
                time.sleep(0.02)
    server.wait()


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
