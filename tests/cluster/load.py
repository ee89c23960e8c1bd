"""Ask a gateway for predictions, steadily, and count the answers; runs in a gateway's image.

    python load.py HOST:PORT PICTURE LABEL

Prints a line of JSON every second: how many requests were answered so far, how many failed, and how
the last one failed. Needs nothing but Python. Each request opens a connection, so that it may reach
any gateway.
"""

import http.client
import json
import sys
import threading
import time
import urllib.request
from pathlib import Path

THREADS = 4
PATIENCE = 10.0  # seconds for one answer
HEAD = b'--X\r\nContent-Disposition: form-data; name="file"; filename="picture"\r\n\r\n'


def ask(address: str, body: bytes, label: str) -> str:
    """Send the picture once; return how it failed, or nothing. `label` is the right answer."""
    headers = {"Content-Type": "multipart/form-data; boundary=X"}
    request = urllib.request.Request(f"http://{address}/predict", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            scores = json.load(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    best = max(scores, key=scores.get)
    return "" if best == label else f"{best} instead of {label}"


def main(address: str, picture: str, label: str, *, seconds: float = 1800, rate: float = 10):
    """Ask for some seconds, at most `rate` times a second, and print the count all the while."""
    body = HEAD + Path(picture).read_bytes() + b"\r\n--X--\r\n"
    count, lock = {"answered": 0, "failed": 0, "failure": ""}, threading.Lock()
    end = time.monotonic() + seconds

    def keep_asking() -> None:
        due = time.monotonic()
        while due < end:
            time.sleep(max(0.0, due - time.monotonic()))
            failure = ask(address, body, label)
            with lock:
                count["failed" if failure else "answered"] += 1
                count["failure"] = failure or count["failure"]
            due = max(due + THREADS / rate, time.monotonic())

    threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    asking = True
    while asking:
        time.sleep(min(1.0, seconds))
        asking = any(thread.is_alive() for thread in threads)
        with lock:
            print(json.dumps(count), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
