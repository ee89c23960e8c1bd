"""Read what a caller asks for: by when, and for which pictures.

Exported from notebooks/05-gateway.ipynb: change the notebook, then run `make export`.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import inf
from typing import NamedTuple

from flask import abort, current_app, g, request
from multipart import MultipartError, MultipartParser

from gateway.deadline import Deadline
from gateway.fetch import fetch
from gateway.images import MAX_BYTES, ImageError


def requested_deadline() -> Deadline:
    """The moment by which the current request is to be answered; 400 for a bad Request-Timeout."""
    most: float = current_app.config["REQUEST_TIMEOUT"]
    try:
        seconds = float(request.headers.get("Request-Timeout", most))
    except ValueError:
        seconds = 0
    if not seconds > 0:
        abort(400, "the header Request-Timeout wants seconds, more than 0, as in 2.5")
    return Deadline.after(min(seconds, most))


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Note in `g.stages` how many seconds a stage of the current request takes."""
    begun = time.perf_counter()
    try:
        yield
    finally:
        g.setdefault("stages", {})[name] = time.perf_counter() - begun


MAX_PICTURES = 32  # of a request
MAX_REQUEST = 2 * MAX_BYTES  # all its pictures together
MAX_FETCHES = 8  # at once, for one request
FETCH_SECONDS = 5.0  # the most that a download gets of a request's time
WHAT_TO_SEND = (
    'send {"url": "https://…"}, or {"urls": ["https://…", …]} with 1 to 32, as JSON; or a picture'
    ' as the form field "file", repeated for several; or a picture as it is, as image/jpeg'
)
TOO_LARGE = f"A picture may have {MAX_BYTES >> 20} MB, all of a request {MAX_REQUEST >> 20} MB"


class Files(NamedTuple):
    """The picture files that a request brings, or whose addresses it names."""

    data: list[bytes]
    several: bool  # whether it asks for a list, be it of one


@contextmanager
def blaming(index: int | None) -> Iterator[None]:
    """Note in an ImageError which of several pictures it is about."""
    try:
        yield
    except ImageError as error:
        error.index = index
        raise


def fetch_all(urls: list[str], deadline: Deadline) -> list[bytes]:
    """Download pictures side by side, as many bytes as a request may have, else 413.

    Raises ImageError for the first that cannot be used.
    """
    allowed = current_app.config["ALLOWED_ORIGINS"]
    total = 0

    def fetch_one(url: str) -> bytes:
        nonlocal total
        timeout = deadline.within(FETCH_SECONDS).remaining()
        try:
            data = fetch(url, allowed_origins=allowed, timeout=timeout)
        except ImageError:
            deadline.remaining()  # where the request's time is up, that is what to say
            raise
        total += len(data)
        if total > MAX_REQUEST:  # before the rest is fetched, and kept
            abort(413, TOO_LARGE)
        return data

    if len(urls) == 1:
        return [fetch_one(urls[0])]
    pool = ThreadPoolExecutor(min(len(urls), MAX_FETCHES))
    try:
        downloads = [pool.submit(fetch_one, url) for url in urls]
        files = []
        for index, download in enumerate(downloads):
            with blaming(index):
                files.append(download.result())
        return files
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def requested_addresses() -> tuple[list[str], bool]:
    """The addresses in the current request's JSON, and whether it asks for a list."""
    try:
        body = request.get_json(silent=True)
    except RecursionError:  # brackets in brackets, a thousand deep
        body = None
    match body:
        case {"url": str(url), **rest} if not rest:
            return [url], False
        case {"urls": [*urls], **rest} if not rest and 1 <= len(urls) <= MAX_PICTURES:
            if all(isinstance(url, str) for url in urls):
                return urls, True
    abort(400, WHAT_TO_SEND)


def uploaded_files() -> list[bytes]:
    """The files in the form that is the current request's body; 400 if none, or too many."""
    boundary = request.mimetype_params.get("boundary", "")
    try:
        form = MultipartParser(request.stream, boundary, spool_limit=inf, memory_limit=inf)
        uploads = [part for part in form if part.name == "file" and part.filename is not None]
    except MultipartError:
        uploads = []
    if not 1 <= len(uploads) <= MAX_PICTURES:
        abort(400, WHAT_TO_SEND)
    return [upload.file.getvalue() for upload in uploads]  # upload.raw would be a copy


def requested_files(deadline: Deadline) -> Files:
    """The current request's picture files; 400, 413 or 415 where it has none that can be read."""
    if request.is_json:
        urls, several = requested_addresses()
        with stage("fetch"):
            files = Files(fetch_all(urls, deadline), several)
    elif request.mimetype == "multipart/form-data":
        uploads = uploaded_files()
        files = Files(uploads, len(uploads) > 1)
    elif request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        files = Files([request.get_data()], several=False)
    else:
        abort(415, WHAT_TO_SEND)
    sizes = [len(data) for data in files.data]
    if max(sizes) > MAX_BYTES or sum(sizes) > MAX_REQUEST:
        abort(413, TOO_LARGE)
    return files
