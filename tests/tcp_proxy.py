"""A wire between a client and a server that tests can slow down, cut, and silence."""

import contextlib
import socket
import struct
import threading
import time

from tutorial.hostile import tcp_server

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class TcpProxy:
    """Forwards TCP connections to 127.0.0.1:target for as long as its `with` block lasts."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0  # seconds by which the server's bytes come late
        self._target = target
        self._connections: list[tuple[threading.Event, socket.socket, socket.socket]] = []
        self._server = tcp_server(self._connect)

    def __enter__(self) -> "TcpProxy":
        self.address = f"127.0.0.1:{self._server.__enter__()}"
        return self

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(*error)
        self.cut()

    def black_hole(self) -> None:
        """Deliver nothing on the connections of now, and close none; new ones are served."""
        for flowing, *_ in self._connections:
            flowing.clear()

    def repair(self) -> None:
        """Deliver again, first what was held back."""
        for flowing, *_ in self._connections:
            flowing.set()

    def cut(self) -> None:
        """Reset the connections of now; new ones are served."""
        while self._connections:
            flowing, *ends = self._connections.pop()
            for end in ends:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    end.shutdown(socket.SHUT_RD)  # wakes the thread that reads
            flowing.set()

    def _connect(self, near: socket.socket) -> None:
        far = socket.create_connection(("127.0.0.1", self._target))
        (flowing := threading.Event()).set()
        self._connections.append((flowing, near, far))
        answers = threading.Thread(
            target=self._forward, args=(flowing, far, near, True), daemon=True
        )
        answers.start()
        self._forward(flowing, near, far, False)
        answers.join()

    def _forward(
        self, flowing: threading.Event, source: socket.socket, target: socket.socket, late: bool
    ) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(2**16):
                if late:
                    time.sleep(self.delay)
                flowing.wait()
                target.sendall(data)
