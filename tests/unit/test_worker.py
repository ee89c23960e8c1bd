"""gateway/operations/worker: gunicorn's bookkeeping stays right, and slow clients are cut off."""

import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn, ThreadWorker

from gateway.operations.worker import Worker


@pytest.fixture
def worker(monkeypatch):
    """A worker that listens to nothing and serves nothing."""
    config = Config()
    config.set("threads", 2)
    worker = Worker(1, 1, [], SimpleNamespace(), 30, config, Mock())
    monkeypatch.setattr("gunicorn.workers.base.Worker.init_process", lambda self: None)
    monkeypatch.setattr(ThreadWorker, "notify", lambda self: None)
    worker.init_process()
    yield worker
    worker.tpool.shutdown()
    worker.poller.close()
    worker.method_queue.close()
    worker.tmp.close()


@pytest.fixture
def connection(worker):
    """A connection as the worker holds it, and the client's end."""
    ours, theirs = socket.socketpair()
    worker.nr_conns = 1
    yield TConn(worker.cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 2)), theirs
    ours.close()
    theirs.close()


def done(function, *arguments) -> Future:
    """Return the future of a call that has ended."""
    with ThreadPoolExecutor() as pool:
        return pool.submit(function, *arguments)


@pytest.mark.parametrize("outcome", [done(lambda: False), done(int, "no number")])
def test_finish_request_counts_a_connection_off_once_and_closes_it(worker, connection, outcome):
    conn, client = connection
    client.settimeout(5)
    worker.finish_request(conn, outcome)
    assert worker.nr_conns == 0
    assert client.recv(1) == b""


def test_finish_request_counts_a_connection_that_is_kept(worker, connection):
    conn, _ = connection
    conn.init()
    worker.finish_request(conn, done(lambda: True))
    assert worker.nr_conns == 1
    assert list(worker.keepalived_conns) == [conn]


def test_notify_stops_reading_from_an_overdue_client(worker, connection, monkeypatch):
    conn, client = connection
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: conn.sock.recv(1))
    conn.sock.setblocking(True)
    conn.sock.settimeout(5)
    worker.patience = 0.2
    with ThreadPoolExecutor() as threads:
        reading = threads.submit(worker.handle, conn)
        while not worker._overdue:
            time.sleep(0.01)
        worker.notify()
        time.sleep(0.1)
        assert not reading.done()  # it has time left
        time.sleep(0.2)
        worker.notify()
        assert reading.result(2) == b""
    assert worker._overdue == {}
    conn.sock.sendall(b"answer")  # the answer can still be sent
    assert client.recv(9) == b"answer"


def test_time_of_a_request_begins_when_its_head_is_there(worker, connection, monkeypatch):
    conn, _ = connection
    moments = []

    def handle(self, conn):
        time.sleep(0.3)  # for the head
        return self.handle_request(Mock(), conn)

    def handle_request(self, request, conn):
        moments.append(self._overdue[conn])

    monkeypatch.setattr(ThreadWorker, "handle", handle)
    monkeypatch.setattr(ThreadWorker, "handle_request", handle_request)
    begun = time.monotonic()
    worker.handle(conn)
    assert moments[0] >= begun + 0.3 + worker.patience


def test_notify_stops_writing_to_a_client_that_does_not_read(worker, connection, monkeypatch):
    conn, _ = connection
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: conn.sock.sendall(bytes(10**8)))
    monkeypatch.setattr("gateway.operations.worker.TO_TAKE", 0.2)
    conn.sock.setblocking(True)
    worker.patience = 0.2
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(worker.handle, conn)
        time.sleep(0.3)
        worker.notify()
        time.sleep(0.2)
        assert not writing.done()  # it may take its time with the answer
        worker.notify()
        with pytest.raises(BrokenPipeError):
            writing.result(2)


def test_handle_answers_what_follows_at_once_but_not_forever(worker, connection, monkeypatch):
    conn, client = connection
    handled = []
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: handled.append(1) or True)
    assert worker.handle(conn) is True
    assert len(handled) == 1  # nothing followed
    client.sendall(b"more")
    assert worker.handle(conn) is True
    assert len(handled) == 1 + 10
    worker.alive = False
    worker.handle(conn)
    assert len(handled) == 12
