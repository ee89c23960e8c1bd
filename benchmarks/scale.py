"""Measure both tiers together: gateways in front of one model, on this machine.

    python -m benchmarks.scale [--rounds=3] [--seconds=6] [--output=FILE.json]

The model is the full-size Xception with random weights of benchmarks.models, served with batching;
uploads of one picture come from tutorial.load. Everything shares this machine's processors, callers
included. Direct calls and requests are measured in turn, round after round, so that a machine that
is slow for a while is slow for both. Everything is printed, and written as JSON with the machine it
came from; tutorial.capacity plans with `batches`, `gateway_cpu_seconds` and `curve`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import grpc
import psutil

from benchmarks.common import ROOT, run, spread, write
from benchmarks.models import (
    BATCH,
    WEIGHTS,
    direct,
    make_images,
    make_request,
    save_models,
    time_calls,
)
from tutorial import services
from tutorial.load import PREDICT, Result, form, measure
from tutorial.processes import Server, free_port, free_ports

PICTURE = ROOT / "starter/samples/t-shirt.jpg"  # 400 x 533 pixels
LABELS = [f"class {number}" for number in range(10)]
CALLERS = 2 * BATCH
SIZES = (1, 2, 4, 8, 16)  # images of a direct call
TIERS = (1, 2, 5)  # gateways
SHARES = (0.25, 0.5, 0.75, 1.1)  # of the peak rate: what is offered
PATIENCE = {"request_timeout": 25, "model_timeout": 20}  # a queue is to be seen, not cut off
AIMS = {
    "end_to_end": f"at least 0.9 of the images/s of direct calls in batches of {BATCH}",
    "half_of_peak": "p99 at most 3 times the direct call for one image",
}


@dataclass(frozen=True)
class Batching:
    """How the model server joins requests; see serving/batching.txt."""

    size: int = BATCH
    timeout_ms: float = 2
    threads: int = 2

    def flags(self, folder: Path) -> list[str]:
        """The model server's flags, for a file that is written into the folder."""
        path = folder / f"batching-{self.size}-{self.timeout_ms}-{self.threads}.txt"
        path.write_text(
            f"max_batch_size {{ value: {self.size} }}\n"
            f"batch_timeout_micros {{ value: {round(1000 * self.timeout_ms)} }}\n"
            f"num_batch_threads {{ value: {self.threads} }}\n"
            "max_enqueued_batches { value: 100 }\n"
        )
        return ["--enable_batching", f"--batching_parameters_file={path}"]


VARIANTS = {
    "off": None,
    "as everywhere else": Batching(),
    "batches of 16": Batching(size=16),
    "wait 100 ms": Batching(timeout_ms=100),
    "1 thread": Batching(threads=1),
}


@contextmanager
def model_server(model: Path, *flags: str, name: str = "benchmark-model") -> Iterator[tuple]:
    """Serve a model; yields the gRPC port and the server."""
    port = free_port()
    command = [*services.model_server_command(model, port), "--grpc_max_threads=64", *flags]
    with services.start_model_server(name, command, port) as server:
        yield port, server


@dataclass(frozen=True)
class Stand:
    """Both tiers: the gateways by their addresses, and the model."""

    gateways: dict[str, Server]
    model: Server
    seconds: float  # of one measurement

    def ask(self, *, gateways: int = TIERS[-1], seconds: float = 0, **how: object) -> "Met":
        """Put a load on so many of the gateways; see tutorial.load."""
        body, content_type = form(PICTURE.read_bytes())
        addresses = list(self.gateways)[:gateways]
        before = self.cpu_seconds(addresses)
        load = measure(
            [f"{address}/predict" for address in addresses],
            body,
            seconds=seconds or self.seconds,
            content_type=content_type,
            timeout=PATIENCE["request_timeout"],
            **how,
        )
        after = self.cpu_seconds(addresses)
        taken = {tier: after[tier] - before[tier] for tier in after}
        return Met(load, taken | {"callers": load.cpu_seconds})

    def cpu_seconds(self, addresses: list[str]) -> dict[str, float]:
        """The processor time that these gateways, and the model, have taken so far."""
        return {
            "gateways": sum(self.gateways[address].cpu_seconds() for address in addresses),
            "model": self.model.cpu_seconds(),
        }

    @cached_property
    def peak(self) -> float:
        """Images a second that come back to as many callers as fill two batches."""
        return self.ask(callers=CALLERS).load.answered


@dataclass(frozen=True)
class Met:
    """What a load met, and the processor seconds that it cost each tier."""

    load: Result
    cpu_seconds: dict[str, float]

    def cpu_of_an_image(self) -> dict[str, float]:
        """Processor seconds of each tier for an image."""
        images = len(self.load.good)
        return {tier: round(seconds / images, 5) for tier, seconds in self.cpu_seconds.items()}


@contextmanager
def stand(folder: Path, seconds: float) -> Iterator[Stand]:
    """Run Xception, and as many gateways in front of it as are ever needed."""
    contract = folder / "contract.json"
    fields = {
        "model_name": "xception",
        "signature_name": "serving_default",
        "preprocessing": "xception",
        "labels": LABELS,
        "scores": "logits",
    }
    contract.write_text(json.dumps(fields))
    with ExitStack() as stack:
        served = model_server(folder / "xception", *Batching().flags(folder))
        port, model = stack.enter_context(served)
        gateways = services.start_gateways(
            TIERS[-1], contract=contract, model_port=port, **PATIENCE
        )
        for server in gateways.values():
            stack.enter_context(server)
        both = Stand(gateways, model, seconds)
        both.ask(callers=CALLERS, seconds=1)  # every gateway and every batch size has run once
        yield both


def measure_batches(call, seconds: float) -> dict:
    """Measure direct calls: seconds of a batch, against its images."""
    found = [statistics.median(call(size, seconds / 2)) for size in SIZES]
    return {
        "sizes": list(SIZES),
        "seconds": [round(each, 4) for each in found],
        "images_per_s": [round(size / each, 2) for size, each in zip(SIZES, found, strict=True)],
    }


def measure_end_to_end(both: Stand, call, caller: psutil.Process, rounds: int) -> dict:
    """Compare images a second: through gateways and server, and direct calls in batches of 8.

    Processor time for an image says the same where others use the machine at the same time.
    """
    alone, through, costs = [], [], []
    for _ in range(rounds):
        before = sum(caller.cpu_times()[:2])
        times = call(BATCH, both.seconds)
        alone.append(BATCH * len(times) / sum(times))
        directly = (sum(caller.cpu_times()[:2]) - before) / (BATCH * len(times))
        met = both.ask(gateways=2, callers=CALLERS)
        through.append(met.load.answered)
        costs.append(met.cpu_of_an_image() | {"direct": directly})
    ratios = [one / other for one, other in zip(through, alone, strict=True)]
    of_cpu = [cost["direct"] / (sum(cost.values()) - cost["direct"]) for cost in costs]
    return {
        "direct_images_per_s": spread(alone),
        "images_per_s": spread(through),
        "ratio": spread(ratios),
        "ratio_of_cpu": spread(of_cpu),
        "cpu_seconds_of_an_image": {
            tier: spread([cost[tier] for cost in costs], digits=5) for tier in costs[0]
        },
    }


def measure_half_of_peak(both: Stand, call, rounds: int) -> dict:
    """Compare p99 at half of the peak rate with a direct call for one image."""
    alone: list[float] = []
    found: dict[str, list[Result]] = {"poisson": [], "even": []}
    for seed in range(rounds):
        alone.append(statistics.median(call(1, both.seconds / 2)))
        for arrivals, results in found.items():
            load = both.ask(
                gateways=2,
                rate=both.peak / 2,
                arrivals=arrivals,
                seed=seed,
                seconds=2 * both.seconds,
            ).load
            results.append(load)
    report = {"offered": round(both.peak / 2, 2), "direct_seconds": spread(alone)}
    for arrivals, results in found.items():
        ratios = [each.percentile(99) / one for each, one in zip(results, alone, strict=True)]
        report[arrivals] = percentiles(results) | {"p99 to direct": spread(ratios)}
    return report


def measure_curve(both: Stand, rounds: int) -> list[dict]:
    """Measure what is answered, and when, against what is offered to 1, 2 and 5 gateways."""
    curve = []
    for gateways in TIERS:
        for share in SHARES:
            rate = share * both.peak
            met = [both.ask(gateways=gateways, rate=rate, seed=seed) for seed in range(rounds)]
            results = [each.load for each in met]
            cores = {
                tier: round(statistics.mean(m.cpu_seconds[tier] / m.load.duration for m in met), 3)
                for tier in met[0].cpu_seconds
            }
            rates = {
                "gateways": gateways,
                "offered": round(statistics.mean(each.offered for each in results), 2),
                "answered": round(statistics.mean(each.answered for each in results), 2),
                "failed": sum(len(each.answers) - len(each.good) for each in results),
            }
            curve.append(rates | percentiles(results) | {"cores": cores})
    return curve


def percentiles(results: list[Result]) -> dict:
    """Seconds in which answers came, all rounds together, and how far the rounds are apart."""
    together = Result(1, 0, [answer for each in results for answer in each.answers])
    figures = {f"p{percent}": round(together.percentile(percent), 4) for percent in (50, 95, 99)}
    of_rounds = [each.percentile(99) for each in results]
    return figures | {"p99_of_rounds": spread(of_rounds)}


def measure_batching(folder: Path, name: str, seconds: float) -> dict:
    """Compare ways to batch: images a second of 16 callers, and seconds for one who is alone."""
    request, found = make_request("xception", name, 1).SerializeToString(), {}
    for variant, batching in VARIANTS.items():
        flags = batching.flags(folder) if batching else []
        with model_server(folder / "xception", *flags, name="variant") as (port, _):
            ask = partial(measure, f"grpc://127.0.0.1:{port}", request)
            ask(callers=CALLERS, seconds=0.5)
            found[variant] = {
                "images_per_s": round(ask(callers=CALLERS, seconds=seconds).answered, 2),
                "alone_seconds": round(ask(callers=1, seconds=seconds / 3).percentile(50), 4),
            }
    return found


def measure_wire(folder: Path, rounds: int, seconds: float) -> dict:
    """Compare gRPC and REST: an image's tensor to the model that does next to nothing with it."""
    port, rest_port = free_ports(2)
    command = services.model_server_command(folder / "mean", port)
    command.append(f"--rest_api_port={rest_port}")
    bodies = {
        f"grpc://127.0.0.1:{port}": make_request("mean", "x", 1).SerializeToString(),
        f"http://127.0.0.1:{rest_port}/v1/models/mean:predict": json.dumps(
            {"inputs": make_images(1).tolist()}
        ).encode(),
    }
    times: dict[str, list[float]] = {address: [] for address in bodies}
    with services.start_model_server("wire", command, port) as server:
        cpu = dict.fromkeys(bodies, 0.0)
        images = dict.fromkeys(bodies, 0)
        for _ in range(rounds):
            for address, body in bodies.items():
                before = server.cpu_seconds()
                load = measure(address, body, callers=1, seconds=seconds / 3)
                cpu[address] += server.cpu_seconds() - before
                images[address] += len(load.good)
                times[address].append(load.percentile(50))
    return {
        address.partition(":")[0].replace("http", "rest"): {
            "bytes": len(bodies[address]),
            "seconds": spread(times[address], digits=5),
            "server_cpu_seconds": round(cpu[address] / images[address], 5),
        }
        for address in bodies
    }


def measure_warm_up(folder: Path, name: str) -> dict:
    """Compare the first request to a server with the next ones, with and without a warm-up file."""
    request = make_request("xception", name, 1).SerializeToString()
    extra = folder / "xception/1/assets.extra"
    found = {}
    for how in ("with", "without"):
        if how == "without":
            extra.rename(folder / "assets.extra")
        begun = time.perf_counter()
        with model_server(folder / "xception", name="warm-up") as (port, _):
            ready = time.perf_counter() - begun
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                call = partial(channel.unary_unary(PREDICT), request, timeout=60)
                [first], later = time_calls(call, 0), time_calls(call, 1)
        found[how] = {
            "ready_seconds": round(ready, 2),
            "first_seconds": round(first, 3),
            "later_seconds": round(statistics.median(later), 3),
        }
    (folder / "assets.extra").rename(extra)
    return found


def main() -> None:
    """Measure everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6, help="of one measurement of a round")
    parser.add_argument("--only", nargs="*", help="some of the measurements")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/scale.json")
    options = parser.parse_args()
    rounds, seconds = options.rounds, options.seconds
    about = {
        "settings": {"rounds": rounds, "seconds": seconds, "callers": CALLERS},
        "weights": WEIGHTS,
        "aims": AIMS,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = save_models(folder)
        with stand(folder, seconds) as both, direct(folder / "xception/1") as (call, pid):
            caller = psutil.Process(pid)
            steps = {
                "batches": lambda: measure_batches(call, seconds),
                "end_to_end": lambda: measure_end_to_end(both, call, caller, rounds),
                "half_of_peak": lambda: measure_half_of_peak(both, call, rounds),
                "curve": lambda: measure_curve(both, max(1, rounds - 1)),
                "batching": lambda: measure_batching(folder, x, seconds),
                "wire": lambda: measure_wire(folder, rounds, seconds),
                "warm_up": lambda: measure_warm_up(folder, x),
            }
            result = run(steps, options.only)
    if "end_to_end" in result:
        costs = result["end_to_end"]["cpu_seconds_of_an_image"]
        result["gateway_cpu_seconds"] = costs["gateways"]["median"]
    write(result | about, options.output)


if __name__ == "__main__":
    main()
