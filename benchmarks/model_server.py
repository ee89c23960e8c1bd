"""Measure the model server against the same SavedModel called directly, on this machine.

    python -m benchmarks.model_server [--rounds=5] [--seconds=20] [--output=FILE.json]

The model is the full-size Xception with random weights of benchmarks.models.
What counts are ratios and differences: both sides of each are measured in turn, round after round,
so that a machine that is slow for a while is slow for both. Everything is printed, and written as
JSON with the machine it came from.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc

from benchmarks.common import ROOT, run, spread, write
from benchmarks.models import BATCH, WEIGHTS, direct, make_request, save_models, time_calls
from tutorial.load import PREDICT

CLIENTS = 16
BATCHING = f"""
max_batch_size {{ value: {BATCH} }}
batch_timeout_micros {{ value: 20000 }}
max_enqueued_batches {{ value: 100 }}
"""


@dataclass(frozen=True)
class Runtime:
    """What runs the model, on both sides."""

    name: str = "tensorflow"
    bfloat16: bool = False

    @property
    def server_flags(self) -> list[str]:
        """The model server's."""
        return [f"--runtime={self.name}", *["--mixed_precision=bfloat16"] * self.bfloat16]

    @property
    def direct_flags(self) -> list[str]:
        """Those of a process that calls the model directly."""
        return [f"--runtime={self.name}", *["--bfloat16"] * self.bfloat16]


AIMS = {
    "throughput": f"at least 0.9 of the images/s of direct calls in batches of {BATCH}",
    "overhead": "at most 8 ms over the direct call for a 1 MB tensor, one client",
    "start": "ready at most 10 s after the command, warm-up included",
    "memory": "flat after 10,000 requests",
}


@contextmanager
def serve(model: str, folder: Path, *flags: str):
    """Start a model server; yield its channel, its process id and the seconds it took to start."""
    started = time.perf_counter()
    command = [
        sys.executable, "-m", "model_server", "--port=0", f"--model_name={model}",
        f"--model_base_path={folder / model}", *flags,
    ]  # fmt: skip
    with open(folder / f"{model}.log", "w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        line = process.stdout.readline()
        if not line:
            sys.exit((folder / f"{model}.log").read_text())
        port = line.split(":")[1].split()[0]
        channel = grpc.insecure_channel(
            f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)]
        )
        grpc.channel_ready_future(channel).result(30)
        yield channel, process.pid, time.perf_counter() - started
        channel.close()
    finally:
        process.terminate()
        process.wait()


def ask_from_all_clients(channel: grpc.Channel, message: bytes, seconds: float) -> list[float]:
    """Let all clients ask for one image at a time, for so many seconds; return images, seconds."""
    call = partial(channel.unary_unary(PREDICT), message, timeout=60)
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        calls = list(pool.map(lambda _: len(time_calls(call, seconds)), range(CLIENTS)))
    return [sum(calls), time.perf_counter() - started]


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, as `ps` knows it on Linux and macOS."""
    output = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(output.stdout) / 1024


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, as `ps` knows it: on Linux in whole seconds."""
    output = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True)
    parts = output.stdout.strip().replace("-", ":").split(":")
    return sum(float(part) * 60**place for place, part in enumerate(reversed(parts)))


def measure_throughput(
    folder: Path, name: str, rounds: int, seconds: float, runtime: Runtime = Runtime()
) -> dict:
    """Compare images per second: 16 clients of the server, direct calls in batches of 8.

    Processor time per image says the same, where others use the machine at the same time.
    """
    parameters = folder / "batching.config"
    parameters.write_text(BATCHING)
    message = make_request("xception", name, 1).SerializeToString()
    flags = [
        "--enable_batching", f"--batching_parameters_file={parameters}", "--grpc_max_threads=32",
        *runtime.server_flags,
    ]  # fmt: skip
    found, images = [], {"direct": 0, "server": 0}
    with (
        serve("xception", folder, *flags) as (channel, server, _),
        direct(folder / "xception/1", *runtime.direct_flags) as (call, caller),
    ):
        ask_from_all_clients(channel, message, 0)
        processes = {"direct": caller, "server": server}
        before = {side: cpu_seconds(pid) for side, pid in processes.items()}
        for _ in range(rounds):
            times = call(BATCH, seconds)
            count, duration = ask_from_all_clients(channel, message, seconds)
            images["direct"] += BATCH * len(times)
            images["server"] += count
            alone, served = BATCH * len(times) / sum(times), count / duration
            found.append(
                {
                    "direct_images_per_s": round(alone, 2),
                    "server_images_per_s": round(served, 2),
                    "ratio": round(served / alone, 3),
                }
            )
        cpu_ms = {
            side: 1000 * (cpu_seconds(pid) - before[side]) / images[side]
            for side, pid in processes.items()
        }
    return {
        "rounds": found,
        "ratio": spread([one["ratio"] for one in found]),
        "cpu_ms_per_image": {side: round(ms, 1) for side, ms in cpu_ms.items()},
        "cpu_ratio": round(cpu_ms["direct"] / cpu_ms["server"], 3),
    }


def measure_overhead(folder: Path, model: str, name: str, rounds: int, seconds: float) -> dict:
    """Compare how long one image takes: one client of the server, and a direct call."""
    message = make_request(model, name, 1).SerializeToString()
    found = []
    with serve(model, folder) as (channel, _, _), direct(folder / model / "1") as (call, _):
        predict = partial(channel.unary_unary(PREDICT), message, timeout=60)
        predict()
        for _ in range(rounds):
            alone, served, end = [], [], time.perf_counter() + seconds
            while time.perf_counter() < end:  # one by one: both meet the same machine
                alone += call(1, 0)
                served += time_calls(predict, 0)
            ms = [1000 * statistics.median(times) for times in (alone, served)]
            found.append(
                {
                    "direct_ms": round(ms[0], 2),
                    "server_ms": round(ms[1], 2),
                    "overhead_ms": round(ms[1] - ms[0], 2),
                }
            )
    return {"rounds": found, "overhead_ms": spread([one["overhead_ms"] for one in found])}


def measure_start(folder: Path, rounds: int) -> dict:
    """Measure the time from the command to a server that is connected to, models warmed up."""
    found = []
    for _ in range(rounds):
        with serve("xception", folder) as (_, _, seconds):
            found.append(seconds)
    return {"seconds": spread(found)}


def measure_memory(folder: Path, requests: int) -> dict:
    """Measure the server's memory over many requests of 1 MB, with and without batching."""
    message = make_request("mean", "x", 1).SerializeToString()
    found = {}
    for how, flags in {"alone": [], "batched": ["--enable_batching"]}.items():
        resident = {}
        with serve("mean", folder, *flags) as (channel, pid, _):
            call = channel.unary_unary(PREDICT)
            for number in range(1, requests + 1):
                call(message, timeout=60)
                if number in (100, requests // 10, requests // 2, requests):
                    resident[number] = round(resident_mb(pid), 1)
        found[how] = {"resident_mb_after_requests": resident}
    return found


def main() -> None:
    """Measure everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20, help="of one measurement of a round")
    parser.add_argument("--requests", type=int, default=10_000, help="for the memory")
    parser.add_argument("--only", nargs="*", help="some of the measurements")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "model_server.json")
    options = parser.parse_args()
    about = {
        "settings": {
            "clients": CLIENTS,
            "batching": " ".join(BATCHING.split()),
            "rounds": options.rounds,
            "seconds": options.seconds,
        },
        "weights": WEIGHTS,
        "aims": AIMS,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rounds, seconds = options.rounds, options.seconds
        x = save_models(folder)
        steps = {
            "throughput": lambda: measure_throughput(folder, x, rounds, seconds),
            "overhead": lambda: measure_overhead(folder, "xception", x, rounds, seconds),
            "overhead_without_model": lambda: measure_overhead(folder, "mean", "x", rounds, 5),
            "start": lambda: measure_start(folder, rounds),
            "memory": lambda: measure_memory(folder, options.requests),
        }
        write(run(steps, options.only) | about, options.output)


if __name__ == "__main__":
    main()
