"""A gunicorn worker whose threads wait for no client longer than is right.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import select
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from gunicorn.workers.gthread import TConn, ThreadWorker


class Worker(ThreadWorker):
    """gunicorn's worker with threads; requests that are not here in time lose their connection."""

    patience = 8.0  # seconds for a request to come in, and to be handled
    linger = 0.005  # seconds that a thread stays with a connection after an answer

    def init_process(self) -> None:
        """Begin with no connection at hand."""
        self._queued: set[TConn] = set()  # they wait for a thread
        self._overdue: dict[TConn, float] = {}  # the moment on time.monotonic's clock
        super().init_process()

    def handle(self, conn: TConn) -> object:
        """In a thread: read a request and answer it, and those that follow it closely."""
        self._queued.discard(conn)
        while True:
            self._overdue[conn] = time.monotonic() + self.patience
            try:
                outcome = super().handle(conn)
            finally:
                del self._overdue[conn]
            if outcome is not True or not self._more_is_coming(conn):
                return outcome

    def _more_is_coming(self, conn: TConn) -> bool:
        if self._queued or not self.alive:
            return False
        readable = select.poll()
        readable.register(conn.sock, select.POLLIN)
        return bool(readable.poll(1000 * self.linger))

    def enqueue_req(self, conn: TConn) -> None:
        """In the loop: let the next free thread handle a connection."""
        self._queued.add(conn)
        super().enqueue_req(conn)

    def notify(self) -> None:
        """In the loop, at least once a second: wake the threads that have waited for too long."""
        super().notify()
        now = time.monotonic()
        for conn, moment in list(self._overdue.items()):
            if now > moment:
                with suppress(OSError):  # it has just closed
                    conn.sock.shutdown(socket.SHUT_RD)

    def finish_request(self, conn: TConn, fs: Future) -> None:
        """In the loop: keep a connection or close it, waiting for the client in a thread."""
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.tpool.submit(partial(conn.close, graceful=True))
