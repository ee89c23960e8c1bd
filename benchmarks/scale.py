"""Measure both tiers together: gateways in front of one model, on this machine.

    python -m benchmarks.scale [--rounds=3] [--seconds=6] [--output=FILE.json]

The model is the full-size Xception, served with batching. `tutorial.load` uploads one picture again
and again. Everything shares the processors of this machine, the load included. Direct calls and
requests are measured in turn, so that a machine that is slow for a while is slow for both. The
lesson "Plan the capacity" plans with `batches`, `end_to_end`, `wire` and `curve`.
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.common import BATCH, CALLERS, PICTURE, batching_flags, parser, ratio, run, spread
from benchmarks.models import WEIGHTS, direct, make_images, make_request, save_models
from tutorial import services
from tutorial.load import Result, form, measure
from tutorial.processes import Server, free_port

SIZES = (1, 2, 4, 8, 16)  # images of a direct call
TIERS = (1, 2, 5)  # gateways
SHARES = (0.25, 0.5, 0.75, 1.1)  # of the peak rate: what is offered
PATIENCE = {"request_timeout": 25, "model_timeout": 20}  # seconds, so that no queue is cut off
AIMS = {"end_to_end": f"at least 0.9 of the images/s of direct calls in batches of {BATCH}"}


@dataclass(frozen=True)
class Stack:
    """Both tiers: the gateways by their addresses, and the model."""

    gateways: dict[str, Server]
    model: Server
    seconds: float  # of one measurement

    def load(self, gateways: int, *, seconds: float = 0, **how: object) -> tuple[Result, dict]:
        """Put a load on the first `gateways`; return its result and the CPU seconds by tier."""
        body, content_type = form(PICTURE.read_bytes())
        servers = dict(list(self.gateways.items())[:gateways])

        def cpu_seconds() -> dict[str, float]:
            of_gateways = sum(server.cpu_seconds() for server in servers.values())
            return {"gateways": of_gateways, "model": self.model.cpu_seconds()}

        before = cpu_seconds()
        result = measure(
            [f"{address}/predict" for address in servers],
            body,
            seconds=seconds or self.seconds,
            content_type=content_type,
            timeout=PATIENCE["request_timeout"],
            **how,
        )
        cost = {tier: after - before[tier] for tier, after in cpu_seconds().items()}
        return result, cost | {"callers": result.cpu_seconds}

    @cached_property
    def peak(self) -> float:
        """Images per second that come back to as many callers as fill two batches."""
        return self.load(TIERS[-1], callers=CALLERS)[0].answered


@contextmanager
def running_stack(folder: Path, seconds: float) -> Iterator[Stack]:
    """Run Xception, and as many gateways in front of it as are ever needed."""
    port = free_port()
    command = services.model_server_command(folder / "xception", port)
    command += batching_flags(folder, timeout_micros=2000)
    with ExitStack() as stack:
        model = stack.enter_context(services.start_model_server("benchmark-model", command, port))
        gateways = services.start_gateways(
            TIERS[-1], contract=folder / "xception/contract.json", model_port=port, **PATIENCE
        )
        for server in gateways.values():
            stack.enter_context(server)
        both = Stack(gateways, model, seconds)
        both.load(TIERS[-1], callers=CALLERS, seconds=1)  # warms up every gateway
        yield both


def measure_batches(call, seconds: float) -> dict:
    """Measure direct calls: the seconds of a batch, against its images."""
    found = [call(size, seconds / 2)["seconds"] for size in SIZES]
    return {"sizes": list(SIZES), "seconds": [round(each, 4) for each in found]}


def measure_end_to_end(both: Stack, call, rounds: int) -> dict:
    """Compare images per second: through gateways and server, and direct calls in batches of 8.

    The processor time of an image says the same, also where other programs use the machine.
    """
    alone, through, costs = [], [], []
    for _ in range(rounds):
        alone.append(call(BATCH, both.seconds))
        result, cost = both.load(2, callers=CALLERS)
        through.append(result.answered)
        costs.append({tier: seconds / len(result.good) for tier, seconds in cost.items()})
    direct_cpu = [each["cpu_seconds"] for each in alone]
    direct_rate = [each["images_per_s"] for each in alone]
    return {
        "direct_images_per_s": spread(direct_rate),
        "images_per_s": spread(through),
        "ratio": ratio(through, direct_rate),
        "ratio_of_cpu": ratio(direct_cpu, [sum(cost.values()) for cost in costs]),
        "cpu_seconds_of_an_image": {
            tier: spread([cost[tier] for cost in costs], digits=5) for tier in costs[0]
        }
        | {"direct": spread(direct_cpu, digits=5)},
    }


def measure_curve(both: Stack, rounds: int) -> list[dict]:
    """Measure what is answered, and when, against what is offered to 1, 2 and 5 gateways."""
    curve = []
    for gateways in TIERS:
        for share in SHARES:
            rate = share * both.peak
            results = [both.load(gateways, rate=rate, seed=seed)[0] for seed in range(rounds)]
            together = Result(1, 0, [answer for each in results for answer in each.answers])
            point = {
                "gateways": gateways,
                "offered": round(statistics.mean(each.offered for each in results), 2),
                "answered": round(statistics.mean(each.answered for each in results), 2),
                "failed": len(together.answers) - len(together.good),
                **{f"p{p}": round(together.percentile(p), 4) for p in (50, 95, 99)},
                "p99_of_rounds": spread([each.percentile(99) for each in results]),
            }
            curve.append(point)
    return curve


def measure_wire(folder: Path, rounds: int, seconds: float) -> dict:
    """Measure gRPC: one image for a model that does almost nothing with it."""
    port = free_port()
    command = services.model_server_command(folder / "mean", port)
    body = make_request("mean", make_images(1))
    times, costs = [], []
    with services.start_model_server("wire", command, port) as server:
        for _ in range(rounds):
            before = server.cpu_seconds()
            result = measure(f"grpc://127.0.0.1:{port}", body, callers=1, seconds=seconds / 3)
            costs.append((server.cpu_seconds() - before) / len(result.good))
            times.append(result.percentile(50))
    found = {"seconds": spread(times, digits=5), "server_cpu_seconds": spread(costs, digits=5)}
    return {"grpc": {"bytes": len(body), **found}}


def main() -> None:
    """Measure everything and write it."""
    options = parser(__doc__, "scale", rounds=3, seconds=6).parse_args()
    rounds, seconds = options.rounds, options.seconds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder, "xception", "mean")
        with running_stack(folder, seconds) as both, direct(folder / "xception/1") as call:
            steps = {
                "batches": lambda: measure_batches(call, seconds),
                "end_to_end": lambda: measure_end_to_end(both, call, rounds),
                "curve": lambda: measure_curve(both, max(1, rounds - 1)),
                "wire": lambda: measure_wire(folder, rounds, seconds),
            }
            run(steps, options, weights=WEIGHTS, aims=AIMS)


if __name__ == "__main__":
    main()
