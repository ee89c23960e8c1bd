"""Run a fake model in a separate process, which tests kill and freeze."""

import os
import signal
import subprocess
import sys

from tutorial import services
from tutorial.processes import free_port, port_open, wait_until

SIDE = 299  # pixels: a tensor of 268 KB, a little more than gRPC by itself would retry


class ModelProcess:
    """A fake model in a separate process, which keeps its port when it is started again."""

    def __init__(self, *, delay: float = 0) -> None:
        self.port = free_port()
        self._delay = delay
        self.load()
        self.start()

    def load(self) -> None:
        """Begin to bring it up, which takes a moment; it does not listen yet."""
        flags = [f"--port={self.port}", f"--side={SIDE}", f"--delay={self._delay}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fake_model", *flags],
            stdin=subprocess.PIPE,  # it ends when this does
            text=True,
            cwd=services.ROOT,
            env=os.environ | {"PYTHONPATH": os.fspath(services.STUBS)},
        )

    def start(self) -> None:
        """Return when it listens."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        wait_until(
            lambda: port_open(self.port), timeout=20, interval=0.02, what="the model to start"
        )

    def kill(self) -> None:
        """End it as the kernel does that is out of memory."""
        self._process.kill()
        self._process.communicate()

    def freeze(self) -> None:
        """Let it hang, with all its connections open."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)
