"""Make hostile servers and files, for lessons and tests."""

import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BytesIO

from PIL import Image


@contextmanager
def tcp_server(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run `behave(connection)` for every connection, each in a thread; yields the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):  # the other side has left
                behave(self.request)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    """Return a server that sends these bytes, whatever the request."""
    return dripping(answer, every=0, times=0)


def dripping(head: bytes, *, every: float, times: int) -> Callable[[socket.socket], None]:
    """Return a server that sends `head`, then `times` single bytes, one every `every` seconds."""

    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head)
        for _ in range(times):
            time.sleep(every)
            connection.sendall(b"x")

    return behave


def scan_bomb(size: tuple[int, int], scans: int) -> bytes:
    """Return a small progressive JPEG of (width, height) pixels that repeats its last scan.

    A decoder goes over all pixels once for every scan. Neither the file's length nor the picture's
    size shows how many there are.
    """
    file = BytesIO()
    Image.new("L", size).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]  # up to the marker that ends the file
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]
