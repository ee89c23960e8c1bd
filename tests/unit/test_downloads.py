"""tutorial.downloads against a local server."""

import hashlib
from contextlib import contextmanager

import pytest

from tutorial import TutorialError
from tutorial.downloads import download, git_blob_hash
from tutorial.hostile import answering, tcp_server

FILE = bytes(range(256)) * 2000  # 512,000 bytes
GIT_BLOB = hashlib.sha1(b"blob %d\0" % len(FILE) + FILE).hexdigest()
HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(FILE)


@contextmanager
def serving(answer: bytes):
    """Yield a URL that gets this answer."""
    with tcp_server(answering(answer)) as port:
        yield f"http://127.0.0.1:{port}/model.h5"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "model.h5"


def test_git_blob_hash_is_that_of_git(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"hello\n")
    assert git_blob_hash(file) == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_download_shows_progress_and_leaves_only_the_file(path, capsys):
    with serving(HEAD + FILE) as url:
        assert download(url, path, git_blob=GIT_BLOB) == path
    assert path.read_bytes() == FILE
    assert list(path.parent.iterdir()) == [path]
    assert "512k/512k" in capsys.readouterr().err


def test_download_keeps_a_good_file(path):
    path.parent.mkdir()
    path.write_bytes(FILE)
    assert download("http://no-such-host.invalid/x", path, git_blob=GIT_BLOB) == path


def test_download_replaces_a_damaged_file(path):
    path.parent.mkdir()
    path.write_bytes(FILE[:-1])
    with serving(HEAD + FILE) as url:
        download(url, path, git_blob=GIT_BLOB)
    assert path.read_bytes() == FILE


@pytest.mark.parametrize(
    "answer",
    [HEAD + FILE[:1000], b"HTTP/1.0 503 Busy\r\n\r\n", b"HTTP/1.0 404 Gone\r\n\r\n"],
    ids=["broken off", "503", "404"],
)
def test_download_that_fails_gives_one_clear_line(path, answer):
    with serving(answer) as url, pytest.raises(TutorialError) as caught:
        download(url, path, git_blob=GIT_BLOB)
    assert str(caught.value).startswith(f"could not download {url}: ")
    assert str(caught.value).endswith(f"save it as {path}")
    assert "\n" not in str(caught.value)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("wrong", [b"<html>Please log in", FILE[::-1]], ids=["page", "same size"])
def test_download_refuses_and_removes_wrong_bytes(path, wrong):
    says = pytest.raises(TutorialError, match=f"not the expected file: .* expected {GIT_BLOB}")
    with serving(b"HTTP/1.0 200 OK\r\n\r\n" + wrong) as url, says:
        download(url, path, git_blob=GIT_BLOB)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/x", "x"])
def test_download_names_an_address_that_cannot_work(path, url):
    with pytest.raises(TutorialError, match=f"could not download {url}: "):
        download(url, path, git_blob=GIT_BLOB)


def test_download_names_a_folder_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.touch()
    says = pytest.raises(TutorialError, match=f"save it as {file / 'model.h5'}")
    with serving(HEAD + FILE) as url, says:
        download(url, file / "model.h5", git_blob=GIT_BLOB)
