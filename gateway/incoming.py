"""Read a prediction request: its deadline and its picture files."""

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from math import inf
from shutil import copyfileobj

from flask import abort, current_app, request
from multipart import MultipartError, MultipartParser

from gateway.deadline import Deadline
from gateway.errors import MAX_BYTES, MAX_JSON, MAX_PICTURES, MAX_REQUEST, ImageError
from gateway.fetch import fetch
from gateway.held_bytes import HeldBytes

MAX_FETCHES = 8  # at once, for one request
FETCH_SECONDS = 5.0  # the most that a download gets of a request's time
WHAT_TO_SEND = (
    'send {"url": "https://…"}, or {"urls": ["https://…", …]} with 1 to 32, as application/json;'
    ' or a picture as the form field "file", repeated for several; or the picture itself, as'
    " image/jpeg"
)
TOO_MANY = f"send at most {MAX_PICTURES} pictures in one request"


def requested_deadline() -> Deadline:
    """Return the current request's deadline. Answers 400 for a bad Request-Timeout."""
    most: float = current_app.config["REQUEST_TIMEOUT"]
    return Deadline.after(min(requested_seconds(), most), caller_left=caller_left())


def requested_seconds() -> float:
    """Return the current request's Request-Timeout, or inf. Answers 400 for a bad one."""
    try:
        seconds = float(request.headers.get("Request-Timeout", inf))
    except ValueError:
        seconds = 0
    if not seconds > 0:
        abort(400, "the header Request-Timeout wants seconds, more than 0, as in 2.5")
    return seconds


def caller_left() -> Callable[[], bool]:
    """Return a function that says whether the current request's caller has left."""
    return partial(has_left, request.environ.get("gunicorn.socket"))


def has_left(connection: socket.socket | None) -> bool:
    """Return whether the other side has closed a connection; without one, False."""
    if connection is None:  # not under gunicorn
        return False
    try:
        if hasattr(select, "POLLRDHUP"):  # Linux; a peek sees no end behind bytes that wait
            poll = select.poll()
            poll.register(connection, select.POLLRDHUP)
            return bool(poll.poll(0))
        return not connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except (OSError, ValueError):  # this side is closed
        return True


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


def fetch_all(urls: list[str], deadline: Deadline, held: HeldBytes) -> list[bytes]:
    """Download pictures side by side; answer 413 as soon as they have more than MAX_REQUEST bytes.

    Raises ImageError as soon as one of the pictures cannot be used, BusyError as `held.add`.
    """
    names = ("ALLOWED_ORIGINS", "USER_AGENT")
    settings = {name.lower(): current_app.config[name] for name in names}

    def count(number: int) -> None:
        if held.add(number) > MAX_REQUEST:
            abort(413)

    def fetch_one(url: str, index: int | None = None) -> bytes:
        with held, tag_index(index):  # the download may outlive the request
            count(0)  # begin no download when there is nothing left
            timeout = deadline.within(FETCH_SECONDS).remaining()
            try:
                left = deadline.caller_left
                return fetch(url, timeout=timeout, count=count, caller_left=left, **settings)
            except ImageError:
                deadline.remaining()  # if the request's time is up, answer that instead
                raise

    if len(urls) == 1:
        return [fetch_one(urls[0])]
    pool = ThreadPoolExecutor(min(len(urls), MAX_FETCHES))
    downloads = [pool.submit(fetch_one, url, index) for index, url in enumerate(urls)]
    try:
        wait(downloads, return_when=FIRST_EXCEPTION)
        return [download.result() for download in downloads if download.done()]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        downloads.clear()  # whose errors would keep what was downloaded, and this frame them


def requested_urls() -> tuple[list[str], bool]:
    """Return the URLs in the current request's JSON, and whether it asks for a list."""
    request.max_content_length = MAX_JSON
    try:
        body = request.get_json(silent=True)
    except RecursionError:  # thousands of nested brackets
        body = None
    match body:
        case {"url": str(url), **rest} if not rest:
            return [url], False
        case {"urls": [_, *_] as urls, **rest} if not rest:
            if len(urls) > MAX_PICTURES:
                abort(400, TOO_MANY)
            if all(isinstance(url, str) for url in urls):
                return urls, True
    abort(400, WHAT_TO_SEND)


class CountedStream:
    """Read the current request's body, and count its bytes as held."""

    def __init__(self, held: HeldBytes) -> None:
        """Start at the body's first byte."""
        self._held = held

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes. Raises BusyError as `HeldBytes.add`."""
        data = request.stream.read(size)
        self._held.add(len(data))
        return data


def uploaded_files(held: HeldBytes) -> list[bytes]:
    """Return the files in the current request's form. Answers 400 if there are none or too many.

    Flask's own parser searches each byte of a file for line ends, and writes larger files to disk.
    """
    boundary = request.mimetype_params.get("boundary", "")
    files = []
    try:
        form = MultipartParser(CountedStream(held), boundary, spool_limit=inf, memory_limit=inf)
        for part in form:
            if part.name == "file":
                files.append(part.file.getvalue())  # part.raw would be a copy
            if len(files) > MAX_PICTURES:
                abort(400, TOO_MANY)
    except MultipartError:
        files = []
    if not files:
        abort(400, WHAT_TO_SEND)
    return files


def uploaded_file(held: HeldBytes) -> bytes:
    """Return the current request's body. Answers 413 if it is larger than a picture may be."""
    request.max_content_length = MAX_BYTES
    copyfileobj(CountedStream(held), body := BytesIO())
    return body.getvalue()


def requested_files(deadline: Deadline, held: HeldBytes) -> tuple[list[bytes], bool]:
    """Return the current request's picture files, and whether it asks for a list.

    Answers 400, 413 or 415 if there are none, they are too large, or the body cannot be read.
    Raises ImageError for an address that gives no picture, BusyError as `held.add`.
    """
    several = False
    if request.is_json:
        urls, several = requested_urls()
        with stage("fetch"):
            files = fetch_all(urls, deadline, held)
    elif request.mimetype == "multipart/form-data":
        files = uploaded_files(held)
        several = len(files) > 1
    elif request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        files = [uploaded_file(held)]
    else:
        abort(415, f"{request.mimetype or 'no Content-Type'} is not read: {WHAT_TO_SEND}")
    if max(map(len, files)) > MAX_BYTES:
        abort(413)
    return files, several
