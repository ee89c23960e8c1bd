"""How many replicas of each tier a load needs, with which batches, and what that costs.

The gateway's replicas are queues before a few cores; the model's are queues that are emptied in
batches. `predict` says how long images take in given numbers of both, `plan` turns that round, and
tutorial.simulation says how far `predict` is off. Images arrive one by one and independently of each
other (a Poisson process), and every replica of a tier gets the same share.

Sources: Erlang's formula for several servers (A. K. Erlang, 1917); A. O. Allen, "Probability,
Statistics, and Queueing Theory", 1978, for service times of any spread (Allen and Cunneen's
approximation, Kingman's with one server); N. T. J. Bailey, "On queueing processes with bulk
service", 1954, and M. F. Neuts, "A general class of bulk queues with Poisson input", 1967, for the
chain of what batches leave behind; Y. Inoue, "Queueing analysis of GPU-based inference servers with
dynamic batching", 2021, for times that grow with the batch.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from tutorial import TutorialError

LOADS = [percent / 100 for percent in range(1, 99)]  # of a replica's capacity, that are tried
GATEWAY_LOADS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TOLERANCE = 0.1  # a HorizontalPodAutoscaler does nothing as long as it is off by less
MOMENTS = 16  # of a batch's run, at which arrivals are looked at


class CannotBeMet(TutorialError):
    """No number of replicas is enough; the message says what can be had."""


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What both tiers have: a price, processors, and a way of rolling out."""

    price_per_hour: float  # of one replica, in any currency
    cores: float | None = 1.0  # that a replica may use; None: a GPU works, and processors say nothing
    requested_cores: float | None = None  # what the autoscaler's percentage is of; None: all cores
    max_unavailable: int = 0  # of the Deployment's strategy: replicas missing during a rollout
    max_surge: int = 1  # … and replicas that come on top, for which nodes must have room

    def percent(self, utilisation: float) -> float:
        """The share of the request that is used when the cores are busy for `utilisation`."""
        return 100 * utilisation * self.cores / (self.requested_cores or self.cores)


@dataclass(frozen=True, kw_only=True)
class GatewayTier(Tier):
    """Replicas that spend processor time on each image."""

    cpu_seconds: float  # an image
    variation: float = 0.3  # standard deviation of that time, divided by its mean

    def images_per_second(self) -> float:
        """What a replica can do at most."""
        return self.cores / self.cpu_seconds


@dataclass(frozen=True, kw_only=True)
class ModelTier(Tier):
    """Replicas that run batches: one of b images takes fixed_seconds + b * per_image_seconds."""

    fixed_seconds: float
    per_image_seconds: float
    largest_batch: int = 32  # that memory allows, or that was measured
    batch_threads: int = 1  # batches that run at once without slowing each other down
    padded: bool = False  # filled up to powers of two: a GPU wants few shapes, a CPU wants no filling

    def sizes(self) -> list[int]:
        """The powers of two up to the largest batch."""
        return [2**power for power in range(self.largest_batch.bit_length())]

    def seconds(self, images: int, limit: int) -> float:
        """What a batch takes, filled up where it is, in a server with that maximum."""
        if self.padded:
            images = min(limit, 1 << (images - 1).bit_length())
        return self.fixed_seconds + images * self.per_image_seconds

    def images_per_second(self, limit: int) -> float:
        """What a replica can do at most, in full batches."""
        return self.batch_threads * limit / self.seconds(limit, limit)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What is asked of both tiers together, at the busiest time."""

    images_per_second: float
    p99_seconds: float  # 99 of 100 images are answered within
    overhead_seconds: float = 0.0  # of network and messages, measured without waiting


@dataclass(frozen=True, kw_only=True)
class Headroom:
    """What may be missing while the demand is still met."""

    lost_replicas: int = 1
    zones: int | None = None  # replicas are spread over so many, and one of them may be lost

    def replicas(self, needed: int, tier: Tier) -> int:
        """How many there must be, so that `needed` are left, during a rollout too."""
        left = needed + tier.max_unavailable
        total = left + self.lost_replicas
        while self.zones and total - math.ceil(total / self.zones) < left:
            if self.zones == 1:
                raise TutorialError("one zone cannot lose one: give Headroom two zones, or none")
            total += 1
        return total


@dataclass(frozen=True, kw_only=True)
class Batching:
    """The model server's BatchingParameters."""

    max_batch_size: int
    batch_timeout_seconds: float = 0.0
    allowed_batch_sizes: tuple[int, ...] = ()
    num_batch_threads: int = 1
    max_enqueued_batches: int = 8

    def text(self) -> str:
        """As serving/batching.txt has them, in protobuf's text format."""
        values = {
            "max_batch_size": self.max_batch_size,
            "batch_timeout_micros": round(1e6 * self.batch_timeout_seconds),
            "max_enqueued_batches": self.max_enqueued_batches,
            "num_batch_threads": self.num_batch_threads,
        }
        lines = [f"{name} {{ value: {value} }}" for name, value in values.items()]
        return "\n".join(lines + [f"allowed_batch_sizes: {n}" for n in self.allowed_batch_sizes])


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How images fare. Where a tier gets more than it can do, seconds are infinite."""

    p50_seconds: float
    p99_seconds: float
    gateway_utilisation: float  # of its cores
    model_utilisation: float  # of its batch threads
    mean_batch: float = math.nan
    queue_seconds: float = math.inf  # that an image waits for its batch, on average


def fit_batches(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """The fixed seconds of a batch and those of each image, from measured batches.

    Least squares of the relative errors, so that small batches count as much as large ones; neither
    cost is ever negative. Raises TutorialError unless two sizes were measured.
    """
    sizes, seconds = np.asarray(sizes, float), np.asarray(seconds, float)
    if len(sizes) != len(seconds) or len(set(sizes)) < 2 or not (seconds > 0).all():
        raise TutorialError("batches of two sizes or more are needed, each with its seconds")
    relative = np.stack([1 / seconds, sizes / seconds], axis=1)
    fixed, per_image = np.linalg.lstsq(relative, np.ones(len(sizes)))[0]
    if fixed < 0:
        return 0.0, _scale(sizes / seconds)
    if per_image < 0:
        return _scale(1 / seconds), 0.0
    return float(fixed), float(per_image)


def _scale(parts: np.ndarray) -> float:
    """The factor that brings all parts nearest to 1."""
    return float(parts.sum() / (parts**2).sum())


def erlang_c(servers: int, load: float) -> float:
    """The probability that somebody must wait for one of `servers`, each busy for `load` < 1."""
    offered, blocked = servers * load, 1.0
    for number in range(1, servers + 1):  # Erlang B, whose recursion does not overflow
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def gateway_wait(gateway: GatewayTier, images_per_second: float) -> tuple[float, float]:
    """The probability that an image waits in a replica that gets so many, and for how long if so.

    The mean is Allen and Cunneen's, the distribution taken for exponential. A core's share counts
    as a slower core.
    """
    load = images_per_second / gateway.images_per_second()
    servers = max(1, math.floor(gateway.cores))
    waits = erlang_c(servers, load)
    spread = (1 + gateway.variation**2) / 2
    return waits, spread / ((1 - load) * gateway.images_per_second())


@dataclass(frozen=True)
class BatchQueue:
    """One batch thread with its queue: how long images stay there, as a histogram."""

    seconds: np.ndarray
    shares: np.ndarray  # of the images; they sum up to 1
    utilisation: float
    mean_batch: float
    queue_seconds: float


@lru_cache(maxsize=4096)
def batch_queue(model: ModelTier, batching: Batching, images_per_second: float) -> BatchQueue:
    """What becomes of images of which one batch thread gets so many a second, below its capacity.

    A chain is solved for how many wait when a batch ends: all of them, up to the maximum, are the
    next batch, and what arrives during its run, which is Poisson, waits for the one after. A first
    image that meets an idle thread waits for the timeout. One that arrives during a run shorter
    than the timeout waits for its end, or for the timeout; the chain passes that over.
    """
    limit, rate = batching.max_batch_size, images_per_second
    timeout = batching.batch_timeout_seconds if limit > 1 else 0.0
    runs = np.array([0.0] + [model.seconds(images, limit) for images in range(1, limit + 1)])
    full = rate * runs[limit]
    most = math.ceil(limit + full + 8 * math.sqrt(full) + 8 / (1 - full / limit))

    # What follows on an idle thread: an image, and those that come before its time is up.
    idle = np.append(0.0, _poisson(np.array([rate * timeout]), limit))
    idle[limit] += 1 - idle.sum()
    arrivals = _poisson(rate * runs, most)
    step = np.zeros((most, most))
    step[0] = idle @ arrivals
    for waiting in range(1, most):
        left = max(waiting - limit, 0)
        step[waiting, left:] = arrivals[min(waiting, limit), : most - left]
    step[:, -1] += 1 - step.sum(axis=1)
    balance = step.T - np.eye(most)
    balance[-1] = 1
    chain = np.linalg.solve(balance, np.eye(most)[-1]).clip(0)

    batches = chain[0] * idle
    batches[1:limit] += chain[1:limit]
    behind = chain[limit:].copy()  # behind[n]: full batches that leave n images waiting
    behind[0] += batches[limit]
    batches[limit] = behind.sum()
    seconds, shares, waits = [], [], []

    def note(wait, size, share):
        run = np.interp(size, np.arange(limit + 1), runs) if not model.padded else runs[size]
        seconds.append((wait + run).ravel())
        waits.append(wait.ravel())
        shares.append(share.ravel())

    sizes = np.arange(1, limit + 1)
    note(np.full(limit, timeout), sizes, chain[0] * idle[1:])  # who wakes the thread
    note(np.full(limit, timeout / 2), sizes, chain[0] * idle[1:] * (sizes - 1))  # and its company
    moments = (np.arange(MOMENTS) + 0.5) / MOMENTS
    for size in np.flatnonzero(batches > 1e-9):
        ahead = _poisson(rate * runs[size] * moments, most)
        if size == limit:
            ahead = np.array([np.convolve(behind, row)[:most] for row in ahead])
        else:
            ahead *= batches[size]
        ahead *= rate * runs[size] / MOMENTS
        rows, before = np.nonzero(ahead > 1e-9)
        wait = runs[size] * (1 - moments[rows]) + before // limit * runs[limit]
        wait = np.maximum(wait, timeout)
        place = before % limit + 1
        company = rate * wait  # who comes until the batch starts: a Poisson number, in three points
        for sigmas, weight in ((-math.sqrt(3), 1 / 6), (0, 2 / 3), (math.sqrt(3), 1 / 6)):
            more = np.rint(company + sigmas * np.sqrt(company)).clip(0)
            own = np.minimum(limit, place + more).astype(int)
            note(wait, own, weight * ahead[rows, before])

    seconds, waits, shares = map(np.concatenate, (seconds, waits, shares))
    shares = shares / shares.sum()
    edges = np.linspace(0, seconds.max(), 1000)
    bins = np.searchsorted(edges, seconds)
    mean_batch = batches @ np.arange(limit + 1) / batches.sum()
    return BatchQueue(
        seconds=edges,
        shares=np.bincount(bins, shares, len(edges)),
        utilisation=float(rate * (batches @ runs) / (batches @ np.arange(limit + 1))),
        mean_batch=float(mean_batch),
        queue_seconds=float(waits @ shares),
    )


def _poisson(means: np.ndarray, count: int) -> np.ndarray:
    """The probabilities of 0 to count - 1 arrivals, a row for each number that is expected."""
    steps = np.maximum(means, 1e-300)[:, None] / np.arange(1, count)
    return np.exp(np.cumsum(np.log(np.c_[np.exp(-means), steps]), axis=1))


def predict(
    gateway: GatewayTier,
    model: ModelTier,
    batching: Batching,
    *,
    images_per_second: float,
    gateways: int,
    models: int,
    overhead_seconds: float = 0.0,
) -> Prediction:
    """How images fare in so many replicas of each tier.

    The waits in both tiers are taken for independent. A replica with several batch threads is taken
    for several replicas with one, which is a little worse than it.
    """
    at_gateway = images_per_second / gateways
    at_thread = images_per_second / models / batching.num_batch_threads
    gateway_load = at_gateway / gateway.images_per_second()
    model_load = at_thread * batching.num_batch_threads / _capacity(model, batching)
    if gateway_load >= LOADS[-1] or model_load > LOADS[-1] + 1e-9:
        return Prediction(
            p50_seconds=math.inf,
            p99_seconds=math.inf,
            gateway_utilisation=min(gateway_load, 1.0),
            model_utilisation=min(model_load, 1.0),
        )
    queue = batch_queue(model, batching, at_thread)
    wait = gateway_wait(gateway, at_gateway)
    always = overhead_seconds + gateway.cpu_seconds
    return Prediction(
        p50_seconds=always + _quantile(queue, *wait, 0.50),
        p99_seconds=always + _quantile(queue, *wait, 0.99),
        gateway_utilisation=gateway_load,
        model_utilisation=queue.utilisation,
        mean_batch=queue.mean_batch,
        queue_seconds=queue.queue_seconds,
    )


def _capacity(model: ModelTier, batching: Batching) -> float:
    """Images per second of one replica, in full batches."""
    limit = batching.max_batch_size
    return batching.num_batch_threads * limit / model.seconds(limit, limit)


def _quantile(queue: BatchQueue, waits: float, mean: float, share: float) -> float:
    """What so many images stay below: the histogram's time and the wait before it, added."""
    low, high = 0.0, queue.seconds[-1] + 50 * mean
    for _ in range(50):
        middle = (low + high) / 2
        late = (middle - queue.seconds) / mean
        above = np.where(late < 0, 1.0, waits * np.exp(-late.clip(0)))
        low, high = (middle, high) if queue.shares @ above > 1 - share else (low, middle)
    return high
