"""Download a large file once, with a progress bar, and verify it."""

import hashlib
import logging
from pathlib import Path

import pooch
import requests

from tutorial import TutorialError

TIMEOUT = 20  # seconds in which a connection or the next bytes must come


def download(url: str, path: Path, *, git_blob: str) -> Path:
    """Download `url` to `path`, unless it is there already, and return `path`.

    Args:
        url: The address of the file.
        path: Where to put it. An interrupted download leaves no file there.
        git_blob: The hash that git gives to the file's content.

    Raises:
        TutorialError: The file cannot be downloaded, or has another hash.
    """
    if path.exists():
        if git_blob_hash(path) == git_blob:
            return path
        path.unlink()
    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT)
    try:
        pooch.retrieve(url, None, fname=path.name, path=path.parent, downloader=downloader)
    except (requests.RequestException, OSError, ValueError) as error:
        raise TutorialError(
            f"could not download {url}: {str(error) or type(error).__name__}. Run this again later,"
            f" or download the file by hand and save it as {path}"
        ) from None
    found = git_blob_hash(path)
    if found != git_blob:
        path.unlink()
        raise TutorialError(
            f"{url} is not the expected file: its git blob hash is {found}, expected {git_blob}."
            " A proxy or a login page may have answered instead. Download the file by hand and"
            f" save it as {path}"
        )
    return path


def git_blob_hash(path: Path) -> str:
    """Return the hash that git gives to the content of `path`: 40 hexadecimal digits."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
