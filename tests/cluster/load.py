"""Ask a gateway for predictions, steadily, and keep count; runs in a gateway's image.

Prints a line of JSON every second: how many requests were answered so far, how many failed, and
how. Needs nothing but Python. Each request opens a connection, so that it may reach any gateway.
"""

import argparse
import http.client
import json
import threading
import time
from pathlib import Path


class Count:
    """What has happened so far; safe to share by threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answered = self._failed = 0
        self._slowest = 0.0
        self._failure = ""

    def add(self, seconds: float, failure: str = "") -> None:
        """One more request, which took so long, and failed if there is a word about that."""
        with self._lock:
            self._answered += not failure
            self._failed += bool(failure)
            self._slowest = max(self._slowest, seconds)
            self._failure = failure or self._failure

    def line(self) -> str:
        """All of it as JSON; the failure is the last one."""
        with self._lock:
            return json.dumps(
                {
                    "answered": self._answered,
                    "failed": self._failed,
                    "slowest": round(self._slowest, 2),
                    "failure": self._failure,
                }
            )


def ask(address: str, picture: bytes, timeout: float) -> dict[str, float]:
    """Label to score for a picture; OSError, HTTPException or ValueError without an answer."""
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("POST", "/predict", *form(picture))
        answer = connection.getresponse()
        body = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"{answer.status} {body[:200]!r}")
    return json.loads(body)


def form(picture: bytes) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a form whose field "file" is the picture."""
    head = b'--X\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'
    body = head + picture + b"\r\n--X--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=X"}


def keep_asking(args: argparse.Namespace, picture: bytes, count: Count, end: float) -> None:
    """What each thread does until the end, in its share of the rate."""
    due = time.monotonic()
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        start = time.monotonic()
        try:
            scores = ask(args.address, picture, args.timeout)
            best = max(scores, key=scores.get)
            failure = "" if best == args.expect else f"{best} instead of {args.expect}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            failure = f"{type(error).__name__}: {error}"
        count.add(time.monotonic() - start, failure)
        due = max(due + args.threads / args.rate, time.monotonic())


def main(argv: list[str] | None = None) -> None:
    """Ask once and print the answer, or ask for some seconds and print the count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="host:port of the gateway")
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--expect", help="the label that is right; without it, ask once")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second, at most")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds for one answer")
    args = parser.parse_args(argv)
    picture = args.picture.read_bytes()
    if args.expect is None:
        print(json.dumps(ask(args.address, picture, args.timeout)))
        return
    count, end = Count(), time.monotonic() + args.seconds
    threads = [
        threading.Thread(target=keep_asking, args=(args, picture, count, end), daemon=True)
        for _ in range(args.threads)
    ]
    for thread in threads:
        thread.start()
    over = False
    while not over:
        time.sleep(min(1.0, args.seconds))
        over = not any(thread.is_alive() for thread in threads)
        print(count.line(), flush=True)


if __name__ == "__main__":
    main()
