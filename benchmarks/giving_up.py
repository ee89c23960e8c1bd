"""Measure the useful answers under twice the capacity, if callers give up after a second.

    python -m benchmarks.giving_up [--rounds=5] [--seconds=20] [--output=FILE.json]

A request has eight photos. Callers who stay keep their connections open when they give up, so the
gateway cannot notice it. Callers who leave close them. Each run has a new gateway.
"""

from pathlib import Path

import requests

from benchmarks.common import PICTURE, parser, run, spread
from tutorial import ROOT, services
from tutorial.load import Result, measure
from tutorial.model_folder import require
from tutorial.processes import free_port

MODEL = "starter"
PICTURES = 8  # in a request
LOAD = 2.0  # times the capacity
PATIENCE = 1.0  # seconds
SETTLED = 3.0  # seconds after which the gateway has found its limit
WAYS = {"staying": 30.0, "leaving": PATIENCE}  # seconds until a caller closes the connection


def useful(result: Result, *, since: float = 0.0) -> float:
    """Return the answers a second that came in time, of the requests due `since` then."""
    good = [
        due
        for due, took, status in result.answers
        if status == requests.codes.ok and took < PATIENCE and due >= since
    ]
    return len(good) / (result.seconds - since)


def overload(model_port: int, contract: Path, timeout: float, seconds: float) -> tuple:
    """Return the useful answers as shares of the capacity: of the whole run, and when settled."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/predict"
    files = [("file", PICTURE.read_bytes())] * PICTURES
    request = requests.Request("POST", url, files=files).prepare()
    form = {"body": request.body, "content_type": request.headers["Content-Type"]}
    with services.start_gateway(port, contract=contract, model_port=model_port):
        measure(url, **form, callers=PICTURES, seconds=1)
        peak = measure(url, **form, callers=PICTURES, seconds=5).answered
        result = measure(url, **form, rate=LOAD * peak, seconds=seconds, timeout=timeout)
    return useful(result) / peak, useful(result, since=SETTLED) / peak


def in_turns(rounds: int, seconds: float) -> dict:
    """Return the spread of the shares, for callers who stay and for those who leave."""
    folder = require(ROOT / "models", MODEL)
    port = free_port()
    command = services.model_server_command(folder, port)
    found: dict[str, list[tuple]] = {way: [] for way in WAYS}
    with services.start_model_server("giving-up", command, port):
        for _ in range(rounds):
            for way, timeout in WAYS.items():
                found[way].append(overload(port, folder / "contract.json", timeout, seconds))
    return {
        way: {
            "whole": spread([whole for whole, _ in runs]),
            "settled": spread([settled for _, settled in runs]),
        }
        for way, runs in found.items()
    }


def main() -> None:
    """Measure both ways, in turns, and write the result."""
    options = parser(__doc__, "giving_up", rounds=5, seconds=20).parse_args()
    steps = {"useful share of the capacity": lambda: in_turns(options.rounds, options.seconds)}
    run(steps, options, model=MODEL)


if __name__ == "__main__":
    main()
