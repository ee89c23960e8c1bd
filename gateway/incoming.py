"""Read a prediction request: its deadline and its picture files."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from math import inf

from flask import abort, current_app, request
from multipart import MultipartError, MultipartParser

from gateway.deadline import Deadline
from gateway.errors import MAX_BYTES, MAX_PICTURES, MAX_REQUEST, ImageError
from gateway.fetch import fetch

MAX_FETCHES = 8  # at once, for one request
FETCH_SECONDS = 5.0  # the most that a download gets of a request's time
WHAT_TO_SEND = (
    'send {"url": "https://…"}, or {"urls": ["https://…", …]} with 1 to 32, as JSON; or a picture'
    ' as the form field "file", repeated for several; or a picture as it is, as image/jpeg'
)
TOO_LARGE = f"A picture may have {MAX_BYTES >> 20} MB, all of a request {MAX_REQUEST >> 20} MB"


def requested_deadline() -> Deadline:
    """Return the current request's deadline. Answers 400 for a bad Request-Timeout."""
    most: float = current_app.config["REQUEST_TIMEOUT"]
    try:
        seconds = float(request.headers.get("Request-Timeout", most))
    except ValueError:
        seconds = 0
    if not seconds > 0:
        abort(400, "the header Request-Timeout wants seconds, more than 0, as in 2.5")
    return Deadline.after(min(seconds, most))


def stages() -> dict[str, float]:
    """Return the seconds that each stage of the current request took so far."""
    return request.environ.setdefault("gateway.stages", {})


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Add the seconds that the block takes to a stage of the current request."""
    begun, seconds = time.perf_counter(), stages()
    try:
        yield
    finally:
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begun


@contextmanager
def tag_index(index: int | None) -> Iterator[None]:
    """Note in an ImageError which of several pictures it is about."""
    try:
        yield
    except ImageError as error:
        error.index = index
        raise


def map_pictures(function: Callable, pictures: Iterable, *, several: bool) -> list:
    """Return `function` of each picture; note in an ImageError which of several it is about."""
    results = []
    for index, picture in enumerate(pictures):
        with tag_index(index if several else None):
            results.append(function(picture))
    return results


def fetch_all(urls: list[str], deadline: Deadline) -> list[bytes]:
    """Download pictures side by side; answer 413 as soon as they have more than MAX_REQUEST bytes.

    Raises ImageError as soon as one of the pictures cannot be used.
    """
    names = ("ALLOWED_ORIGINS", "USER_AGENT")
    settings = {name.lower(): current_app.config[name] for name in names}
    left, lock = MAX_REQUEST, threading.Lock()

    def count(number: int) -> None:
        nonlocal left
        with lock:
            left -= number
        if left < 0:
            abort(413, TOO_LARGE)

    def fetch_one(url: str, index: int | None = None) -> bytes:
        count(0)  # begin no download when there is nothing left
        timeout = deadline.within(FETCH_SECONDS).remaining()
        with tag_index(index):
            try:
                return fetch(url, timeout=timeout, count=count, **settings)
            except ImageError:
                deadline.remaining()  # if the request's time is up, answer that instead
                raise

    if len(urls) == 1:
        return [fetch_one(urls[0])]
    pool = ThreadPoolExecutor(min(len(urls), MAX_FETCHES))
    try:
        downloads = [pool.submit(fetch_one, url, index) for index, url in enumerate(urls)]
        wait(downloads, return_when=FIRST_EXCEPTION)
        return [download.result() for download in downloads if download.done()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def requested_urls() -> tuple[list[str], bool]:
    """Return the URLs in the current request's JSON, and whether it asks for a list."""
    try:
        body = request.get_json(silent=True)
    except RecursionError:  # thousands of nested brackets
        body = None
    match body:
        case {"url": str(url), **rest} if not rest:
            return [url], False
        case {"urls": [*urls], **rest} if not rest and 1 <= len(urls) <= MAX_PICTURES:
            if all(isinstance(url, str) for url in urls):
                return urls, True
    abort(400, WHAT_TO_SEND)


def uploaded_files() -> list[bytes]:
    """Return the files in the current request's form. Answers 400 if there are none or too many.

    Flask's own parser searches each byte of a file for line ends, and writes larger files to disk.
    """
    boundary = request.mimetype_params.get("boundary", "")
    try:
        form = MultipartParser(request.stream, boundary, spool_limit=inf, memory_limit=inf)
        uploads = [part for part in form if part.name == "file" and part.filename is not None]
    except MultipartError:
        uploads = []
    if not 1 <= len(uploads) <= MAX_PICTURES:
        abort(400, WHAT_TO_SEND)
    return [upload.file.getvalue() for upload in uploads]  # upload.raw would be a copy


def requested_files(deadline: Deadline) -> tuple[list[bytes], bool]:
    """Return the current request's picture files, and whether it asks for a list.

    Answers 400, 413 or 415 if there are none, they are too large, or the body cannot be read.
    """
    several = False
    if request.is_json:
        urls, several = requested_urls()
        with stage("fetch"):
            files = fetch_all(urls, deadline)
    elif request.mimetype == "multipart/form-data":
        files = uploaded_files()
        several = len(files) > 1
    elif request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        files = [request.get_data()]
    else:
        abort(415, WHAT_TO_SEND)
    sizes = [len(data) for data in files]
    if max(sizes) > MAX_BYTES or sum(sizes) > MAX_REQUEST:
        abort(413, TOO_LARGE)
    return files, several
