"""A wire between a client and a server that tests can slow down, cut, and silence."""

import contextlib
import socket
import struct
import threading
import time

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Connection:
    """Two sockets, and a thread for each direction."""

    def __init__(self, proxy: "TcpProxy", near: socket.socket, far: socket.socket) -> None:
        self.flowing = threading.Event()
        self.flowing.set()
        self._proxy, self._ends = proxy, (near, far)
        for source, target, late in ((near, far, False), (far, near, True)):
            arguments = (source, target, late)
            threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def cut(self) -> None:
        for end in self._ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                end.shutdown(socket.SHUT_RD)  # wakes the thread that reads
        self.flowing.set()

    def _forward(self, source: socket.socket, target: socket.socket, late: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                if late:
                    time.sleep(self._proxy.delay)
                self.flowing.wait()
                target.sendall(data)
        for end in self._ends:
            end.close()


class TcpProxy:
    """Forwards TCP connections to 127.0.0.1:target for as long as its `with` block lasts."""

    def __init__(self, target: int) -> None:
        self.delay = 0.0  # seconds by which the server's bytes come late
        self._target = target
        self._connections: list[Connection] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def black_hole(self) -> None:
        """Deliver nothing on the connections of now, and close none; new ones are served."""
        for connection in self._connections:
            connection.flowing.clear()

    def mend(self) -> None:
        """Deliver again, first what was held back."""
        for connection in self._connections:
            connection.flowing.set()

    def cut(self) -> None:
        """Reset the connections of now; new ones are served."""
        while self._connections:
            self._connections.pop().cut()

    def __enter__(self) -> "TcpProxy":
        self._listener.settimeout(0.1)  # not every system wakes `accept` when its socket is closed
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._accepting.join()
        self.cut()

    def _accept(self) -> None:
        while self._listener.fileno() != -1:
            try:
                near, _ = self._listener.accept()
            except OSError:  # nobody came, or it is closed
                continue
            near.settimeout(None)
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
            else:
                self._connections.append(Connection(self, near, far))
