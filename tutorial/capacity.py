"""Estimate how many replicas each tier needs for a load, by simulating every image.

An image takes the same path as in the cluster. A Service picks a gateway at random. A gateway works
on one image at a time and passes its images to the models in turn. A model runs what waits in
front of it as one batch, and starts the next batch when that one ends.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutorial import TutorialError

GATEWAY_LIMIT = 0.7  # the share of time that a gateway may be busy
GATEWAY_VARIATION = 0.3  # standard deviation of its processor time, divided by the mean
WARM_UP = 0.1  # the share of images that come before the queues have their usual length


@dataclass(frozen=True)
class Gateway:
    """One gateway: a process with one core, which needs `cpu_seconds` for an image on average."""

    cpu_seconds: float
    price_per_hour: float  # in any currency

    def needed_for(self, rate: float) -> int:
        """Return how many gateways `rate` images per second need."""
        return math.ceil(rate * self.cpu_seconds / GATEWAY_LIMIT)


@dataclass(frozen=True)
class Model:
    """One model server, which runs one batch at a time."""

    fixed_seconds: float  # time of a batch, whatever its size
    image_seconds: float  # time that each image adds
    price_per_hour: float  # in the same currency
    largest_batch: int = 32  # the server's max_batch_size
    timeout: float = 0.0  # the server's batch_timeout_micros, in seconds
    pads: bool = False  # whether batches are filled up to a power of two, as is usual on a GPU

    def seconds(self, images: int) -> float:
        """Return how long a batch of `images` takes."""
        if self.pads:
            images = min(self.largest_batch, 1 << (images - 1).bit_length())
        return self.fixed_seconds + images * self.image_seconds

    def images_per_second(self) -> float:
        """Return the most that one replica can do: full batches without a pause."""
        return self.largest_batch / self.seconds(self.largest_batch)


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation: `latencies` in seconds, and how busy the models were."""

    latencies: np.ndarray
    model_busy: float
    mean_batch: float

    def percentile(self, percent: float) -> float:
        """Return the seconds within which `percent` % of the images were answered."""
        return float(np.percentile(self.latencies, percent))


def fit_batches(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Fit a straight line through measured batches; return (fixed, per image) seconds.

    Relative errors count, so that small batches weigh as much as large ones. A negative part is
    set to zero.
    """
    image, fixed = np.polyfit(sizes, seconds, 1, w=1 / np.asarray(seconds))
    return max(0.0, float(fixed)), max(0.0, float(image))


def simulate(
    gateway: Gateway,
    model: Model,
    *,
    rate: float,
    gateways: int,
    models: int,
    overhead: float = 0.0,
    images: int = 10_000,
) -> Simulated:
    """Send `images` through both tiers, `rate` a second at random times.

    `overhead` is the time of messages and network in seconds; it is added to every latency. The
    same arguments give the same result. With a rate that is too high, queues grow until the end.
    """
    random = np.random.default_rng(1)
    arrived = random.exponential(1 / rate, images).cumsum()
    shape = GATEWAY_VARIATION**-2
    work = random.gamma(shape, gateway.cpu_seconds / shape, images)
    chosen = random.integers(gateways, size=images)
    first_model = random.integers(models, size=gateways)

    prepared, target = np.empty(images), np.empty(images, int)
    for number in range(gateways):
        mine = np.flatnonzero(chosen == number)
        free = 0.0
        for image in mine:
            free = prepared[image] = max(free, arrived[image]) + work[image]
        target[mine] = (first_model[number] + np.arange(len(mine))) % models

    answered, batches, ends = np.empty(images), [], []
    for number in range(models):
        mine = np.flatnonzero(target == number)
        mine = mine[np.argsort(prepared[mine])]
        own_batches, own_ends = _run_batches(prepared[mine], model)
        answered[mine] = np.repeat(own_ends, own_batches)
        batches += own_batches
        ends += own_ends
    latencies = (answered - arrived + overhead)[round(WARM_UP * images) :]
    busy = sum(map(model.seconds, batches)) / (models * max(ends))
    return Simulated(latencies, busy, images / len(batches))


def _run_batches(arrivals: np.ndarray, model: Model) -> tuple[list[int], list[float]]:
    """Run images that arrive at one model; return the size and the end of each batch."""
    sizes: list[int] = []
    ends: list[float] = []
    begin, free = 0, 0.0
    while begin < len(arrivals):
        fills = begin + model.largest_batch - 1
        full = arrivals[fills] if fills < len(arrivals) else math.inf
        start = max(free, min(full, arrivals[begin] + model.timeout))
        waiting = np.searchsorted(arrivals, start, side="right") - begin
        size = int(min(waiting, model.largest_batch))
        free = start + model.seconds(size)
        sizes.append(size)
        ends.append(free)
        begin += size
    return sizes, ends


@dataclass(frozen=True)
class Plan:
    """The number of replicas for a load of `rate` images per second, and their price.

    `spare` replicas of each tier are more than are needed as long as all of them run.
    """

    rate: float
    gateways: int
    models: int
    spare: int
    price_per_hour: float

    @property
    def price_per_million(self) -> float:
        """Price of a million images while the load lasts."""
        return self.price_per_hour / (3600 * self.rate) * 1e6

    def __str__(self) -> str:
        return (
            f"{self.gateways} gateways ({self.gateways - self.spare} needed),"
            f" {self.models} models ({self.models - self.spare} needed):"
            f" {self.price_per_hour:.2f} an hour, {self.price_per_million:.2f} a million images"
        )


def rate_of_one_model(gateway: Gateway, model: Model, p99: float, overhead: float) -> float:
    """Return the most images per second that one model can take, with 99% answered within `p99`.

    Raises TutorialError if even a model with almost nothing to do is too slow.
    """

    def late(rate: float) -> bool:
        replicas = {"gateways": gateway.needed_for(rate), "models": 1}
        found = simulate(gateway, model, rate=rate, overhead=overhead, **replicas)
        return found.percentile(99) > p99

    low, high = 0.01 * model.images_per_second(), model.images_per_second()
    if late(low):
        alone = overhead + gateway.cpu_seconds + model.timeout + model.seconds(1)
        raise TutorialError(
            f"no number of replicas has a p99 of {p99:g} s: one image alone takes {alone:.2g} s."
            " Ask for more time, or use a faster model"
        )
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (low, middle) if late(middle) else (middle, high)
    return low


def plan(
    gateway: Gateway,
    model: Model,
    *,
    rate: float,
    p99: float,
    overhead: float = 0.0,
    spare: int = 1,
) -> Plan:
    """Return the replicas that answer 99% of `rate` images per second within `p99` seconds.

    Each tier gets `spare` replicas more than it needs, so that this many can be lost. Raises
    TutorialError if no number of replicas is fast enough.
    """
    gateways = gateway.needed_for(rate) + spare
    models = math.ceil(rate / rate_of_one_model(gateway, model, p99, overhead)) + spare
    price = gateways * gateway.price_per_hour + models * model.price_per_hour
    return Plan(rate, gateways, models, spare, price)
