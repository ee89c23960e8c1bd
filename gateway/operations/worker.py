"""Run requests in gunicorn's threads, and disconnect clients that are too slow."""

import json
import socket
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from gunicorn import util
from gunicorn.http.message import Request
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker

IN_A_ROW = 10  # requests of one connection, before other connections get the thread
LATER = 0.5  # seconds: the thread with the request notices first that its time is up
LINGER = 0.005  # seconds that a thread waits for the next of them
TO_TAKE = 2.0  # seconds that a client has for the rest of an answer, after its request's time


def write_problem(sock: socket.socket, status: int, reason: str, message: str) -> None:
    """Answer a request that gunicorn cannot read in the form of RFC 9457, as all others."""
    problem = {"type": "about:blank", "title": reason, "status": status, "detail": message}
    body = json.dumps(problem)
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
        f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    util.write_nonblock(sock, f"{head}{body}".encode())


util.write_error = write_problem  # gunicorn writes HTML


class Worker(ThreadWorker):
    """Serve as gunicorn's threaded worker, with a time limit for each request."""

    patience = 8.0  # seconds for a request's head, and then for the rest and for handling it

    def init_process(self) -> None:
        """Start without connections."""
        self._overdue: dict[TConn, float] = {}  # the moment on time.monotonic's clock
        super().init_process()

    def enqueue_req(self, conn: TConn) -> None:
        """Give a connection to a thread; the main loop waits until a new one sends something."""
        if conn.initialized or not self.alive or conn.wait_for_data(0):
            super().enqueue_req(conn)
        else:
            silent: Future = Future()
            silent.set_result(_DEFER)
            super().finish_request(conn, silent)

    def handle(self, conn: TConn) -> object:
        """Read a request and answer it, in a thread; then those that follow at once, a few.

        A connection that the main loop has to watch in between costs 5% more of the processor.
        """
        for _ in range(IN_A_ROW):
            self._overdue[conn] = time.monotonic() + self.patience
            try:
                outcome = super().handle(conn)
            finally:
                del self._overdue[conn]
            conn.data_ready = False  # the next request's
            if outcome is not True or not self.alive or not conn.wait_for_data(LINGER):
                break
        return outcome

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """Handle a request whose head is there."""
        self._overdue[conn] = time.monotonic() + self.patience + LATER
        return super().handle_request(req, conn)

    def notify(self) -> None:
        """Stop reading from overdue clients, a little later also writing to them.

        The main loop calls this every second.
        """
        super().notify()
        now = time.monotonic()
        for conn, moment in list(self._overdue.items()):
            if now > moment:
                late = now > moment + TO_TAKE
                with suppress(OSError):  # it has just closed
                    conn.sock.shutdown(socket.SHUT_RDWR if late else socket.SHUT_RD)

    def finish_request(self, conn: TConn, fs: Future) -> None:
        """Keep a connection or close it, in the main loop.

        Closing waits for the client, so a thread does that: the main loop goes on.
        """
        if fs.cancelled() or fs.exception() or fs.result():
            super().finish_request(conn, fs)
        else:
            self.nr_conns -= 1
            self.tpool.submit(partial(conn.close, graceful=True))
