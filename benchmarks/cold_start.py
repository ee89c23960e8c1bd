"""Measure how long a request waits for a model that is scaled to zero, part by part.

    python -m benchmarks.cold_start [--rounds=7] [--output=FILE.json]

The gateway holds a request; then the model server starts. The files are in the page cache. In a
cluster, the autoscaler, the scheduler and perhaps the image's download come before that.
"""

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from benchmarks.common import PICTURE, parser, run, spread
from tutorial import ROOT, services
from tutorial.model_folder import require
from tutorial.processes import free_ports, wait_until

MODEL = "starter"
THREADS = ["--tensorflow_intra_op_parallelism=2", "--tensorflow_inter_op_parallelism=2"]
WAYS = {"threads_set": THREADS, "threads_measured": []}  # as in the manifests; as in `make run`


def classify(address: str) -> dict[str, float]:
    """Return the seconds of each stage of a request."""
    answer = requests.post(f"{address}/classify", files={"file": PICTURE.read_bytes()}, timeout=90)
    answer.raise_for_status()
    return answer.json()["seconds"]


def start_once(folder: Path, flags: list[str]) -> dict[str, float]:
    """Start the model while a gateway holds a request; return the seconds of each part."""
    port, gateway_port, admin_port = free_ports(3)
    command = services.model_server_command(folder, port)
    command[2] = "benchmarks.cold_start_server"
    address = f"http://127.0.0.1:{gateway_port}"
    settings = {"contract": folder / "contract.json", "model_port": port, "model_wait": 60}
    with (
        services.start_gateway(gateway_port, admin_port=admin_port, **settings),
        ThreadPoolExecutor(1) as pool,
    ):
        held = pool.submit(classify, address)
        metrics = f"http://127.0.0.1:{admin_port}/metrics"
        wait_until(
            lambda: "\ngateway_in_flight 1.0" in requests.get(metrics, timeout=1).text,
            timeout=5,
            what="the request",
        )
        started = time.monotonic()
        command.insert(3, str(started))
        with subprocess.Popen([*command, *flags], cwd=ROOT, stdout=subprocess.PIPE) as server:
            try:
                found = json.loads(server.stdout.readline())
                first = held.result()
                found["until_answer"] = time.monotonic() - started
                found |= {"first_call": first["model"], "second_call": classify(address)["model"]}
            finally:
                server.terminate()
                server.stdout.read()
    return found


def measure(folder: Path, flags: list[str], rounds: int) -> dict:
    """Return the spread of each part, over `rounds` starts."""
    start_once(folder, flags)  # brings the files into the page cache
    found = [start_once(folder, flags) for _ in range(rounds)]
    return {part: spread([each[part] for each in found]) for part in found[0]}


def main() -> None:
    """Measure both ways and write the result."""
    options = parser(__doc__, "cold_start", rounds=7, seconds=0).parse_args()
    folder = require(ROOT / "models", MODEL)
    steps = {
        name: lambda flags=flags: measure(folder, flags, options.rounds)
        for name, flags in WAYS.items()
    }
    run(steps, options, model=MODEL)


if __name__ == "__main__":
    main()
