"""What was measured on a machine: costs to plan with, and a curve to check predictions against."""

import json
import re
import statistics
from dataclasses import dataclass, replace
from pathlib import Path

from tutorial import TutorialError
from tutorial.capacity.queues import predict
from tutorial.capacity.tiers import (
    EPSILON,
    Batching,
    GatewayTier,
    ModelTier,
)


@dataclass(frozen=True)
class Measured:
    """What was measured on one machine."""

    sizes: tuple[int, ...]  # of batches
    seconds: tuple[float, ...]  # that these took
    gateway_cpu_seconds: float
    overhead_seconds: float  # of messages and network, for an image of 1 MB
    cpus: int
    curve: tuple[dict, ...] = ()  # offered and answered images/s, p50 and p99 in s, gateways
    files: tuple[str, ...] = ()


def read_measured(folder: Path) -> Measured:
    """What benchmarks/ holds: of scale.json, or, where there is none, of the two other files.

    These know batches of two sizes only, and no curve. Raises TutorialError for a file that is
    missing, or that lacks something.
    """
    read: dict[str, dict] = {}

    def load(name: str) -> dict:
        read[name] = json.loads((folder / name).read_text())
        return read[name]

    try:
        server = load("model_server.json")
        overhead = server["overhead_without_model"]["overhead_ms"]["median"] / 1000
        if (folder / "scale.json").exists():
            scale = load("scale.json")
            sizes, seconds = scale["batches"]["sizes"], scale["batches"]["seconds"]
            gateway, machine, curve = scale["gateway_cpu_seconds"], scale["machine"], scale["curve"]
        else:
            full = int(
                re.search(r"max_batch_size \{ value: (\d+)", server["settings"]["batching"])[1]
            )
            alone = [each["direct_ms"] for each in server["overhead"]["rounds"]]
            rates = [each["direct_images_per_s"] for each in server["throughput"]["rounds"]]
            sizes = 1, full
            seconds = statistics.median(alone) / 1000, full / statistics.median(rates)
            gateway = load("gateway.json")["requests"]["cpu_ms"]["upload"]["median"] / 1000
            machine, curve = server["machine"], ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"{type(error).__name__} {error}"
        raise TutorialError(f"no figures can be read from {folder}: {what}") from error
    return Measured(
        sizes=tuple(sizes),
        seconds=tuple(seconds),
        gateway_cpu_seconds=gateway,
        overhead_seconds=overhead,
        cpus=machine["cpus"],
        curve=tuple(curve),
        files=tuple(sorted(read)),
    )


@dataclass(frozen=True)
class Compared:
    """A point of the measured curve, and what was predicted for it.

    Predicted seconds are infinite where the formula expects a queue that only grows.
    """

    offered: float  # images per second
    gateways: int
    measured_p50: float
    predicted_p50: float
    measured_p99: float
    predicted_p99: float

    @property
    def p50_error(self) -> float:
        """0.1: predicted 10% too slow."""
        return self.predicted_p50 / self.measured_p50 - 1

    @property
    def p99_error(self) -> float:
        """0.1: predicted 10% too slow."""
        return self.predicted_p99 / self.measured_p99 - 1


def compare(
    measured: Measured, gateway: GatewayTier, model: ModelTier, batching: Batching
) -> list[Compared]:
    """Each point of the curve, measured on one machine with one model, against the prediction.

    All share the machine's processors: what the gateways take is missing to the model, whose
    batches are slower by that much.
    """
    found = []
    for point in measured.curve:
        offered = point["offered"]
        left = max(EPSILON, 1 - offered * measured.gateway_cpu_seconds / measured.cpus)
        slowed = replace(
            model,
            fixed_seconds=model.fixed_seconds / left,
            per_image_seconds=model.per_image_seconds / left,
        )
        predicted = predict(
            gateway,
            slowed,
            batching,
            images_per_second=offered,
            gateways=point["gateways"],
            models=1,
            overhead_seconds=measured.overhead_seconds,
        )
        found.append(
            Compared(
                offered=offered,
                gateways=point["gateways"],
                measured_p50=point["p50"],
                predicted_p50=predicted.p50_seconds,
                measured_p99=point["p99"],
                predicted_p99=predicted.p99_seconds,
            )
        )
    return found
