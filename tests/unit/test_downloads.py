"""tutorial.downloads against a local server that misbehaves in every way the module promises."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tutorial import TutorialError, downloads

FILE = bytes(range(256)) * 2000  # 512,000 bytes: several chunks
HALF = len(FILE) // 2


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` under any path, and remembers the Range header of each request."""

    daemon_threads = True
    content = FILE
    ranges = True  # whether Range is honoured
    status = None  # an error status to answer with
    failures = 0  # how many of the next requests are to fail, by ...
    failing = "break"  # ... "break" (stop in the middle), "hang" (the same, but stay connected)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/model.h5"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        if server.status:
            return self.send_error(server.status)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.ranges else 0
        if start and start >= len(server.content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.failures:
            server.failures -= 1
            self.wfile.write(body[: len(body) // 2])
            if server.failing == "hang":
                server.over.wait(10)
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSES", (0, 0.01))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "model.h5"


@pytest.fixture
def part(path):
    path.parent.mkdir()
    return path.with_name("model.h5.part")


def get(server, path):
    return downloads.download(server.url, path, git_blob=git_hash(FILE))


def test_git_blob_hash_is_what_git_says(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    assert downloads.git_blob_hash(file) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_whole_file(server, path, capsys):
    assert get(server, path) == path
    assert path.read_bytes() == FILE
    assert list(path.parent.iterdir()) == [path]
    assert server.asked == [None]
    assert "512k/512k" in capsys.readouterr().err


def test_good_file_needs_no_network(server, path):
    get(server, path)
    server.status = 500
    assert get(server, str(path)) == path
    assert len(server.asked) == 1


def test_damaged_file_is_replaced(server, path):
    path.parent.mkdir()
    path.write_bytes(FILE[:-1])
    get(server, path)
    assert path.read_bytes() == FILE


def test_resumes_where_the_last_run_ended(server, path, part, capsys):
    part.write_bytes(FILE[:HALF])
    get(server, path)
    assert path.read_bytes() == FILE
    assert server.asked == [f"bytes={HALF}-"]
    bar = capsys.readouterr().err
    assert " 0%" not in bar  # it starts at what is there
    assert "512k/512k" in bar


def test_complete_part_of_an_interrupted_run(server, path, part):
    part.write_bytes(FILE)
    get(server, path)  # the server answers 416
    assert path.read_bytes() == FILE
    assert server.asked == [f"bytes={len(FILE)}-"]


def test_transfer_that_breaks_off_once_is_resumed(server, path):
    server.failures = 1
    get(server, path)
    assert path.read_bytes() == FILE
    first, second = server.asked
    assert first is None
    assert 0 < int(second[6:-1]) <= HALF


def test_transfer_that_hangs_once_is_resumed(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", (1, 0.2))
    server.failures, server.failing = 1, "hang"
    get(server, path)
    assert path.read_bytes() == FILE
    assert len(server.asked) == 2


def test_transfer_that_always_breaks_off_leaves_its_part_for_the_next_run(server, path):
    server.failures = 3
    with pytest.raises(TutorialError) as caught:
        get(server, path)
    assert server.url in str(caught.value)
    assert "again later" in str(caught.value)
    assert str(path) in str(caught.value)
    assert not path.exists()
    assert len(server.asked) == 3
    get(server, path)
    assert path.read_bytes() == FILE
    assert int(server.asked[-1][6:-1]) > HALF


def test_interrupt_keeps_the_part(server, path, part, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.time, "sleep", interrupt)
    server.failures = 1
    with pytest.raises(KeyboardInterrupt):
        get(server, path)
    assert 0 < part.stat().st_size < len(FILE)
    assert not path.exists()


def test_server_that_ignores_ranges(server, path, part):
    server.ranges = False
    part.write_bytes(FILE[:HALF])
    get(server, path)
    assert path.read_bytes() == FILE
    assert len(server.asked) == 1


@pytest.mark.parametrize("old", [b"?" * HALF, b"?" * len(FILE) * 2], ids=["shorter", "longer"])
def test_part_of_another_file_is_given_up(server, path, part, old):
    part.write_bytes(old)
    get(server, path)
    assert path.read_bytes() == FILE
    assert server.asked == [f"bytes={len(old)}-", None]


@pytest.mark.parametrize("wrong", [b"<html>Please log in", FILE[::-1]], ids=["page", "same size"])
def test_wrong_bytes(server, path, wrong):
    server.content = wrong
    with pytest.raises(TutorialError, match="not the expected file") as caught:
        get(server, path)
    assert git_hash(FILE) in str(caught.value)
    assert git_hash(wrong) in str(caught.value)
    assert list(path.parent.iterdir()) == []
    assert server.asked == [None]


def test_wrong_bytes_that_also_break_off_end_in_the_same_error(server, path):
    server.content, server.failures = FILE[::-1], 1
    with pytest.raises(TutorialError, match="not the expected file"):
        get(server, path)
    assert list(path.parent.iterdir()) == []
    assert len(server.asked) == 3  # the half, the rest, and once more from the start


def test_without_a_hash_nothing_is_joined(server, path, part):
    part.write_bytes(b"?" * HALF)
    server.failures = 1
    downloads.download(server.url, path)
    assert path.read_bytes() == FILE
    assert server.asked == [None, None]


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, 3)])
def test_error_status(server, path, status, requests):
    server.status = status
    with pytest.raises(TutorialError, match=f"the server answered {status}") as caught:
        get(server, path)
    assert server.url in str(caught.value)
    assert f"save it as {path}" in str(caught.value)
    assert len(server.asked) == requests
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/x", "http://no-such-host.invalid/x", "x"])
def test_unreachable(path, url, server):
    server.server_close()
    url = url.format(port=server.server_port)
    with pytest.raises(TutorialError, match=f"could not download {re.escape(url)}: ") as caught:
        downloads.download(url, path)
    assert "\n" not in str(caught.value)


def test_folder_that_cannot_be_written(server, path, part):
    part.mkdir()
    with pytest.raises(TutorialError, match=f"could not write {re.escape(str(part))}: "):
        downloads.download(server.url, path)
