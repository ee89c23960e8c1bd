"""Download a large file once, with a progress bar, and verify it."""

import hashlib
import logging
import os
from pathlib import Path

import pooch
import requests

from tutorial import TutorialError

TIMEOUT = 20  # seconds in which a connection or the next bytes must come
TRIES = 3


def download(url: str, path: str | Path, *, git_blob: str | None = None) -> Path:
    """Download `url` to `path`, unless it is there already, and return `path`.

    Args:
        url: The address of the file.
        path: Where to put it. An interrupted download leaves no file there.
        git_blob: The hash that git gives to the file's content. A file at `path` with another
            hash is downloaded again.

    Raises:
        TutorialError: The file cannot be downloaded, or has another hash.
    """
    path = Path(path)
    if path.exists() and git_blob not in (None, git_blob_hash(path)):
        path.unlink()
    pooch.get_logger().setLevel(logging.WARNING)
    source = pooch.create(
        path.parent,
        "",
        registry={path.name: None},
        urls={path.name: url},
        retry_if_failed=TRIES - 1,
    )
    try:
        source.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT))
    except (requests.RequestException, OSError, ValueError) as error:
        raise TutorialError(
            f"could not download {url}: {str(error) or type(error).__name__}. Run this again later,"
            f" or download the file by hand and save it as {path}"
        ) from None
    found = git_blob and git_blob_hash(path)
    if found != git_blob:
        path.unlink()
        raise TutorialError(
            f"{url} is not the expected file: its git blob hash is {found}, expected {git_blob}."
            " A proxy or a login page may have answered instead. Download the file by hand and"
            f" save it as {path}"
        )
    return path


def git_blob_hash(path: str | Path) -> str:
    """Return the hash that git gives to the content of `path`: 40 hexadecimal digits."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: blob).hexdigest()
