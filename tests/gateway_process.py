"""Run the gateway as it is deployed, and read what tests need of it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests

from tests.pictures import png
from tutorial import services
from tutorial.processes import free_port


class GatewayProcess:
    """A gateway on two free ports; `settings` are those of `services.start_gateway`."""

    def __init__(self, **settings: object) -> None:
        self.port, self.admin_port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.server = services.start_gateway(self.port, admin_port=self.admin_port, **settings)

    def predict(self, picture: bytes | None = None, **options: object) -> requests.Response:
        """Upload a picture; `options` are those of `requests.post`."""
        upload = {"files": {"file": picture or png()}, "timeout": 60}
        return requests.post(f"{self.address}/predict", **upload | options)

    def admin(self, path: str) -> requests.Response:
        """Ask the second port, which has to answer within a second."""
        return requests.get(f"http://127.0.0.1:{self.admin_port}{path}", timeout=1)

    def metric(self, name: str) -> float:
        """Return the value of a metric, named with its labels as in Prometheus; 0 if absent."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.admin("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def processes(self) -> list[psutil.Process]:
        """Return gunicorn's arbiter, then its worker."""
        return psutil.Process(self.server.supervisor.pid).children(recursive=True)


@contextmanager
def memory_limit(processes: list[psutil.Process], megabytes: int) -> Iterator[None]:
    """Limit what the processes take together, as a pod's limit does: the kernel kills one above it.

    Says so where no cgroup can be made.
    """
    version_1 = Path("/sys/fs/cgroup/memory")
    root, limit = Path("/sys/fs/cgroup"), "memory.max"
    if version_1.exists():
        root, limit = version_1, "memory.limit_in_bytes"
    group = root / f"gateway-{os.getpid()}"
    try:
        group.mkdir()
        held = sum(process.memory_info().rss for process in processes)  # is not counted
        (group / limit).write_text(str((megabytes << 20) - held))
        for process in processes:
            (group / "cgroup.procs").write_text(str(process.pid))
    except OSError as error:
        print(f"no limit of {megabytes} MB: {error}")
    try:
        yield
    finally:
        for process in processes:
            with suppress(OSError):
                (root / "cgroup.procs").write_text(str(process.pid))
        with suppress(OSError):
            group.rmdir()
