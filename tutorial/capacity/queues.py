"""How long images wait and take in given numbers of gateways and models.

Sources: Erlang's formula for several servers (A. K. Erlang, 1917); A. O. Allen, "Probability,
Statistics, and Queueing Theory", 1978, for service times of any spread (Allen and Cunneen's
approximation, Kingman's with one server); N. T. J. Bailey, "On queueing processes with bulk
service", 1954, and M. F. Neuts, "A general class of bulk queues with Poisson input", 1967, for the
chain of what batches leave behind; Y. Inoue, "Queueing analysis of GPU-based inference servers with
dynamic batching", 2021, for times that grow with the batch.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from tutorial.capacity.tiers import (
    EPSILON,
    Batching,
    GatewayTier,
    ModelTier,
)

STABLE = 0.98  # of a capacity; with more, a queue is taken for one that only grows
MEMORY = 4  # batches that a queue remembers; by simulation: still safe, and nearer than one
MOMENTS = 16  # of a batch's run, at which arrivals are looked at


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """How images fare. Where a tier gets more than it can do, or nearly, seconds are infinite."""

    p50_seconds: float
    p99_seconds: float
    gateway_utilisation: float  # of its cores
    model_utilisation: float  # of its batch threads
    mean_batch: float = math.nan
    queue_seconds: float = math.inf  # that an image waits for its batch, on average


def erlang_c(servers: int, load: float) -> float:
    """The probability that somebody must wait for one of `servers`, each busy for `load` < 1."""
    offered, blocked = servers * load, 1.0
    for number in range(1, servers + 1):  # Erlang B, whose recursion does not overflow
        blocked = offered * blocked / (number + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def gateway_wait(gateway: GatewayTier, images_per_second: float) -> tuple[float, float]:
    """The probability that an image waits in a replica that gets so many, and for how long if so.

    The mean is Allen and Cunneen's, the distribution taken for exponential.
    """
    load = images_per_second / gateway.images_per_second()
    waits = erlang_c(gateway.servers(), load)
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
def batch_queue(
    model: ModelTier,
    batching: Batching,
    images_per_second: float,
    gateways: int = 1,
    models: int = 1,
) -> BatchQueue:
    """What becomes of images of which one batch thread gets so many a second, below its capacity.

    A chain is solved for how many wait when a batch ends: all of them, up to the maximum, are the
    next batch, and what arrives during its run (see `arrivals`) waits for the one after. A first
    image that meets an idle thread waits for the timeout. One that arrives during a run shorter
    than the timeout waits for its end, or for the timeout; the chain passes that over.
    """
    limit, rate = batching.max_batch_size, images_per_second
    timeout = batching.batch_timeout_seconds if limit > 1 else 0.0
    runs = np.array([0.0] + [model.seconds(images, limit) for images in range(1, limit + 1)])
    full = rate * runs[limit]
    most = math.ceil(limit + full + 8 * math.sqrt(full) + 6 / (1 - full / limit))

    # What follows on an idle thread: an image, and those that come before its time is up.
    idle = np.append(0.0, arrivals(np.array([rate * timeout]), limit, gateways, models))
    idle[limit] += 1 - idle.sum()
    fresh = idle @ arrivals(following(rate * runs, gateways, models), most, gateways, models)
    chain = _waiting(limit, fresh, arrivals(rate * runs, most, gateways, models))
    batches = chain[0] * idle
    batches[1:limit] += chain[1:limit]
    behind = chain[limit:].copy()  # behind[n]: full batches that leave n images waiting
    behind[0] += batches[limit]
    batches[limit] = behind.sum()
    seconds, shares, waits = [], [], []

    def note(wait, size, share):
        seconds.append(wait + runs[size])
        waits.append(wait)
        shares.append(share)

    sizes = np.arange(1, limit + 1)
    note(np.full(limit, timeout), sizes, chain[0] * idle[1:])  # who wakes the thread
    note(np.full(limit, timeout / 2), sizes, chain[0] * idle[1:] * (sizes - 1))  # and its company
    edges = np.linspace(0, 1, MOMENTS + 1)
    moments = (edges[:-1] + edges[1:]) / 2
    for size in np.flatnonzero(batches > 1e-9):
        came = rate * runs[size]
        ahead = arrivals(following(came * moments, gateways, models), most, gateways, models)
        begun = chain[0] * idle[size] * np.diff(following(came * edges, gateways, models))
        others = (batches[size] - chain[0] * idle[size]) * came / MOMENTS
        if size == limit:
            ahead = np.array([np.convolve(behind / behind.sum(), row)[:most] for row in ahead])
        ahead *= (begun + others)[:, None]
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


def _waiting(limit: int, fresh: np.ndarray, during: np.ndarray) -> np.ndarray:
    """The probabilities that so many images wait when a batch ends.

    `during[size]` are those of the numbers that arrive while a batch of that size runs, `fresh` the
    same for one that started on an idle thread.
    """
    most = during.shape[1]
    step = np.zeros((most, most))  # from so many to so many
    step[0] = fresh
    for waiting in range(1, most):
        left = max(waiting - limit, 0)
        step[waiting, left:] = during[min(waiting, limit), : most - left]
    step[:, -1] += 1 - step.sum(axis=1)
    balance = step.T - np.eye(most)
    balance[-1] = 1
    return np.linalg.solve(balance, np.eye(most)[-1]).clip(0)


def arrivals(means: np.ndarray, count: int, gateways: int, models: int) -> np.ndarray:
    """The probabilities of 0 to count - 1 arrivals at one model, a row for each expected number.

    Poisson with one model. Of several, each gateway serves one after the other, so that one model
    gets every `models`-th of its images, give or take one: the variance is at most
    1 / models + gateways / (4 * mean) of Poisson's. That is less the longer one looks, and a queue
    remembers several batches (the relevant time of W. Whitt and W. You, "Using robust queueing to
    expose the impact of dependence in single-server queues", 2018), so the mean is that of MEMORY
    batches. The numbers are taken for binomial.
    """
    means = np.maximum(means, 1e-300)[:, None]
    spread = 1 / models + gateways / (4 * MEMORY * means)
    trials = np.where(spread < 1, np.ceil(means / (1 - spread.clip(0, 1 - EPSILON))), 1 / EPSILON)
    chance = means / trials
    numbers = np.arange(1, count)
    steps = ((trials - numbers + 1) / numbers).clip(0) * chance / (1 - chance)
    with np.errstate(divide="ignore"):  # more than there are trials: the logarithm of nothing
        logarithms = np.log(np.hstack([np.exp(trials * np.log1p(-chance)), steps]))
    return np.exp(np.cumsum(logarithms, axis=1))


def following(means: np.ndarray, gateways: int, models: int) -> np.ndarray:
    """How many arrivals are expected after one at the same model, where `means` are at any time.

    As many with one model. Of several, the gateway that sent the one goes on to all others first:
    of it comes the renewal function of Erlang's distribution, which is taken for normal, and that
    for logistic.
    """
    if models == 1:
        return means
    own = means[:, None] / gateways
    numbers = np.arange(1, math.ceil(2 * own.max()) + 8)
    deviations = ((own - numbers) / np.sqrt(numbers / models)).clip(-100, 100)
    return means * (1 - 1 / gateways) + (1 / (1 + np.exp(-1.7 * deviations))).sum(axis=1)


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

    The waits in both tiers are taken for independent, and a replica with several batch threads for
    several replicas with one, which is a little worse than it.
    """
    at_gateway, at_model = images_per_second / gateways, images_per_second / models
    gateway_load = at_gateway / gateway.images_per_second()
    model_load = at_model / model.images_per_second(batching.max_batch_size)
    if max(gateway_load, model_load) > STABLE:
        return Prediction(
            p50_seconds=math.inf,
            p99_seconds=math.inf,
            gateway_utilisation=min(gateway_load, 1.0),
            model_utilisation=min(model_load, 1.0),
        )
    turns = (gateways, models) if models > 1 else (1, 1)
    queue = batch_queue(model, batching, at_model / model.batch_threads, *turns)
    wait = gateway_wait(gateway, at_gateway)
    always = overhead_seconds + gateway.seconds()
    return Prediction(
        p50_seconds=always + _quantile(queue, *wait, 0.50),
        p99_seconds=always + _quantile(queue, *wait, 0.99),
        gateway_utilisation=gateway_load,
        model_utilisation=queue.utilisation,
        mean_batch=queue.mean_batch,
        queue_seconds=queue.queue_seconds,
    )


def _quantile(queue: BatchQueue, waits: float, mean: float, share: float) -> float:
    """What so many images stay below: the histogram's time and the wait before it, added."""
    low, high = 0.0, queue.seconds[-1] + 50 * mean
    for _ in range(50):
        middle = (low + high) / 2
        late = (middle - queue.seconds) / mean
        above = np.where(late < 0, 1.0, waits * np.exp(-late.clip(0)))
        low, high = (middle, high) if queue.shares @ above > 1 - share else (low, middle)
    return float(high)
