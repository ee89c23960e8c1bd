"""Download a large file once: with a progress bar, resumed where it broke off, verified.

Bytes go to PATH.part, which becomes PATH only when it is whole and verified. So PATH is never half
a file, and what an interrupted download got so far is still there for the next run.
"""

import hashlib
import os
import time
from pathlib import Path

import requests
from tqdm import tqdm

from tutorial import TutorialError

TIMEOUT = (5, 20)  # seconds to connect, and seconds that a transfer may stand still
PAUSES = (0.5, 1, 2)  # seconds to wait before each further try
CHUNK = 64 * 1024  # bytes; at most this much is lost when a transfer breaks off


def download(url: str, path: str | Path, *, git_blob: str | None = None) -> Path:
    """Download `url` to `path`, unless it is there already, and return `path`.

    With `git_blob`, the hash that git gives the file's content, the file is verified: a `path` that
    differs counts as damaged and is replaced, and a transfer that broke off is resumed, in this run
    or the next. Without it nothing could tell whether two pieces belong to the same file, so each
    try starts from the first byte.

    Raises TutorialError if the file cannot be had, or is not the expected one.
    """
    path = Path(path)
    if path.exists() and git_blob in (None, git_blob_hash(path)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for resume in (True, False) if git_blob else (False,):
        resumed = _fetch(url, part, resume)
        found = git_blob and git_blob_hash(part)
        if found == git_blob:
            os.replace(part, path)
            return path
        part.unlink()
        if not resumed:
            break  # no bad joint that a second, plain download would mend
    raise TutorialError(
        f"{url} is not the expected file: its git blob hash is {found}, expected {git_blob}."
        " It changed on the server, or something on the way (a proxy, a login page) answered"
        f" instead; download the file by hand and save it as {path}"
    )


def git_blob_hash(path: str | Path) -> str:
    """Return the hash that git gives the content of the file `path`: 40 hexadecimal digits."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: blob).hexdigest()


def _fetch(url: str, part: Path, resume: bool) -> bool:
    """Fetch all of `url` into `part`, in a few tries if need be; return whether one was resumed."""
    for pause in (*PAUSES, None):
        start = part.stat().st_size if resume and part.exists() else 0
        try:
            return _transfer(url, part, start)
        except requests.RequestException as error:
            if _may_pass(error) and pause is not None:
                time.sleep(pause)
                continue
            advice = "Run this again later" if _may_pass(error) else "Check the address"
            raise TutorialError(
                f"could not download {url}: {_reason(error)}. {advice},"
                f" or download the file by hand and save it as {part.with_suffix('')}"
            ) from None
        except OSError as error:
            raise TutorialError(
                f"could not write {part}: {error.strerror}. Make room, or choose another folder"
            ) from None


def _transfer(url: str, part: Path, start: int) -> bool:
    """Fetch `url` from byte `start` on into `part`; return whether `part` is now old and new bytes.

    A server that ignores ranges sends the file from its first byte, and `part` is written anew.
    """
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges then count the file's own bytes
    if start:
        headers["Range"] = f"bytes={start}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            return True  # nothing follows the bytes in hand
        response.raise_for_status()
        resumed = response.status_code == requests.codes.partial_content
        got = start if resumed else 0
        length = response.headers.get("Content-Length")
        total = got + int(length) if length else None
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=got, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))
    return resumed


def _may_pass(error: requests.RequestException) -> bool:
    """Return whether the same request may succeed a moment later."""
    if error.response is not None:
        return error.response.status_code >= 500
    return isinstance(
        error,
        (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError),
    )


def _reason(error: requests.RequestException) -> str:
    """Return one line on what went wrong: the status, or the first cause under all the layers."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    cause = error.args[0] if isinstance(error.args[0], Exception) else error
    while cause.__cause__:
        cause = cause.__cause__
    return str(cause)
