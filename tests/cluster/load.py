"""Ask a gateway for predictions, steadily, and count the answers; runs in a gateway's image.

Prints a line of JSON every second: how many requests were answered so far, how many of them by
milliseconds (rounded up to tens), how many failed, and how the last one failed. Needs nothing but
Python. Each request opens a connection, so that it may reach any gateway.
"""

import argparse
import http.client
import json
import math
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

THREADS = 4
PATIENCE = 10.0  # seconds for one answer
HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'


def ask(args: argparse.Namespace, body: bytes) -> str:
    """Send the picture once; return how it failed, or nothing."""
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    request = urllib.request.Request(f"http://{args.address}/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            scores = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    best = max(scores, key=scores.get)
    return "" if best == args.label else f"{best} instead of {args.label}"


def main(argv: list[str] | None = None) -> None:
    """Ask for some seconds, and print the count all the while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="host:port of the gateway")
    parser.add_argument("picture", type=Path)
    parser.add_argument("label", help="the right answer")
    parser.add_argument("--seconds", type=float, default=1800.0)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second, at most")
    args = parser.parse_args(argv)
    body = HEAD + args.picture.read_bytes() + b"\r\n--X--\r\n"
    count, lock = {"answered": 0, "failed": 0, "failure": "", "took": Counter()}, threading.Lock()
    end = time.monotonic() + args.seconds

    def keep_asking() -> None:
        due = time.monotonic()
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            begun = time.monotonic()
            failure = ask(args, body)
            took = 10 * math.ceil(100 * (time.monotonic() - begun))
            with lock:
                count["failed" if failure else "answered"] += 1
                count["failure"] = failure or count["failure"]
                count["took"][took] += not failure
            due = max(due + THREADS / args.rate, time.monotonic())

    threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    asking = True
    while asking:
        time.sleep(min(1.0, args.seconds))
        asking = any(thread.is_alive() for thread in threads)
        with lock:
            print(json.dumps(count), flush=True)


if __name__ == "__main__":
    main()
