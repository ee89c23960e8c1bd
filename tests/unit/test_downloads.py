"""tutorial.downloads against a local server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tutorial import TutorialError, downloads

FILE = bytes(range(256)) * 2000  # 512,000 bytes
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(FILE) + FILE).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `content` under any path and counts the requests."""

    daemon_threads = True
    content = FILE
    status = 200
    broken = 0  # how many of the next answers end in the middle

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = 0
        self.url = f"http://127.0.0.1:{self.server_port}/model.h5"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests += 1
        if server.status != 200:
            return self.send_error(server.status)
        self.send_response(200)
        self.send_header("Content-Length", str(len(server.content)))
        self.end_headers()
        end = len(server.content) // 2 if server.broken else None
        server.broken = max(0, server.broken - 1)
        self.wfile.write(server.content[:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)  # between pooch's tries
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "model.h5"


def get(server, path):
    return downloads.download(server.url, path, git_blob=GIT_BLOB)


def test_git_blob_hash_is_that_of_git(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    assert downloads.git_blob_hash(file) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_download_shows_progress_and_leaves_only_the_file(server, path, capsys):
    assert get(server, path) == path
    assert path.read_bytes() == FILE
    assert list(path.parent.iterdir()) == [path]
    assert "512k/512k" in capsys.readouterr().err


def test_a_good_file_is_not_downloaded_again(server, path):
    get(server, path)
    assert get(server, str(path)) == path
    assert server.requests == 1


def test_a_damaged_file_is_replaced(server, path):
    path.parent.mkdir()
    path.write_bytes(FILE[:-1])
    get(server, path)
    assert path.read_bytes() == FILE


def test_a_download_that_breaks_off_is_tried_again(server, path):
    server.broken = 2
    get(server, path)
    assert path.read_bytes() == FILE
    assert server.requests == 3


@pytest.mark.parametrize("failure", [{"broken": 3}, {"status": 503}, {"status": 404}])
def test_a_download_that_always_fails_is_one_clear_line(server, path, failure):
    vars(server).update(failure)
    with pytest.raises(TutorialError, match=f"could not download {server.url}: .") as caught:
        get(server, path)
    assert f"save it as {path}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []
    assert server.requests == downloads.TRIES


@pytest.mark.parametrize("wrong", [b"<html>Please log in", FILE[::-1]], ids=["page", "same size"])
def test_wrong_bytes_are_refused_and_removed(server, path, wrong):
    server.content = wrong
    with pytest.raises(TutorialError, match="not the expected file") as caught:
        get(server, path)
    assert GIT_BLOB in str(caught.value)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/x", "x"])
def test_an_address_that_cannot_work_is_named(path, url, server):
    with pytest.raises(TutorialError, match=f"could not download {url}: "):
        downloads.download(url, path)


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(TutorialError, match=f"save it as {file / 'model.h5'}"):
        downloads.download(server.url, file / "model.h5")
