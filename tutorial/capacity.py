"""How many replicas of each tier a load needs, with which batches, and what that costs.

The gateway's replicas are queues before a few cores; the model's are queues that are emptied in
batches. `predict` says how long images take in given numbers of both, `plan` turns that round, and
tutorial.simulation says how far `predict` is off. Images arrive one by one and independently of
each other (a Poisson process), and every replica of a tier gets the same share.

Sources: Erlang's formula for several servers (A. K. Erlang, 1917); A. O. Allen, "Probability,
Statistics, and Queueing Theory", 1978, for service times of any spread (Allen and Cunneen's
approximation, Kingman's with one server); N. T. J. Bailey, "On queueing processes with bulk
service", 1954, and M. F. Neuts, "A general class of bulk queues with Poisson input", 1967, for the
chain of what batches leave behind; Y. Inoue, "Queueing analysis of GPU-based inference servers with
dynamic batching", 2021, for times that grow with the batch.
"""

import json
import math
import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from tutorial import TutorialError

LOADS = [percent / 100 for percent in range(1, 96)]  # of a model's capacity, that are tried
GATEWAY_LOADS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # … of a gateway's
STABLE = 0.98  # of a capacity; with more, a queue is taken for one that only grows
EPSILON = 1e-9
NEGLIGIBLE = 0.02  # of a price
TELLING = 0.8  # half the load must use less than this of what the load uses, to scale by it
TOLERANCE = 0.1  # a HorizontalPodAutoscaler does nothing as long as it is off by less
MEMORY = 4  # batches that a queue remembers; by simulation: still safe, and nearer than one
MOMENTS = 16  # of a batch's run, at which arrivals are looked at


class CannotBeMet(TutorialError):
    """No number of replicas is enough; the message says what can be had."""


def _check(**values: float) -> None:
    """Raise TutorialError for the first that is not more than zero."""
    for name, value in values.items():
        if not value > 0:
            raise TutorialError(f"{name} is {value}, but must be more than 0")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """What both tiers have: a price, processors, and a way of rolling out."""

    price_per_hour: float  # of one replica, in any currency
    cores: float = 1.0  # that a replica keeps busy, and so should request
    max_unavailable: int = 0  # of the Deployment's strategy: replicas missing during a rollout
    max_surge: int = 1  # … and replicas that come on top, for which nodes must have room


@dataclass(frozen=True, kw_only=True)
class GatewayTier(Tier):
    """Replicas that spend processor time on each image."""

    cpu_seconds: float  # an image
    variation: float = 0.3  # standard deviation of that time, divided by its mean

    def __post_init__(self) -> None:
        """Check what is divided by."""
        _check(cpu_seconds=self.cpu_seconds, cores=self.cores)

    def images_per_second(self) -> float:
        """What a replica can do at most."""
        return self.cores / self.cpu_seconds

    def servers(self) -> int:
        """How many images a replica works on at once."""
        return max(1, math.floor(self.cores))

    def seconds(self) -> float:
        """How long one of these takes on average: a core's share is a slower core."""
        return self.cpu_seconds * self.servers() / self.cores


@dataclass(frozen=True, kw_only=True)
class ModelTier(Tier):
    """Replicas that run batches: one of b images takes fixed_seconds + b * per_image_seconds."""

    fixed_seconds: float
    per_image_seconds: float
    largest_batch: int = 32  # that memory allows, or that was measured
    batch_threads: int = 1  # batches that run at once without slowing each other down
    gpu: bool = False  # it wants few shapes: batches are filled up to powers of two

    def __post_init__(self) -> None:
        """Check what is divided by."""
        _check(batch_seconds=self.fixed_seconds + self.per_image_seconds)
        _check(largest_batch=self.largest_batch, batch_threads=self.batch_threads)

    def sizes(self) -> tuple[int, ...]:
        """The powers of two up to the largest batch."""
        return tuple(2**power for power in range(self.largest_batch.bit_length()))

    def seconds(self, images: int, limit: int) -> float:
        """What a batch takes, filled up where it is, in a server with that maximum."""
        if self.gpu:
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
    images_per_call: int = 32  # that a caller may send at once: one batch must hold them

    def __post_init__(self) -> None:
        """Check what is divided by."""
        _check(images_per_second=self.images_per_second, p99_seconds=self.p99_seconds)


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
    """How images fare. Where a tier gets more than it can do, or nearly, seconds are infinite."""

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


@dataclass(frozen=True, kw_only=True)
class TierPlan:
    """What one tier needs, and what to write into its manifests."""

    needed: int  # for the demand, with nothing lost
    replicas: int  # with headroom: what is paid for, and the autoscaler's maxReplicas
    room: int  # replicas that nodes must have room for while a rollout is under way
    min_replicas: int  # the autoscaler's, for the quietest hour
    utilisation: float  # at the demand, with all replicas
    target_images_per_second: float  # of a replica: with more, one is added
    target_percent: int | None  # the same as averageUtilization; None: processors do not tell
    cores: float  # to be requested: the percentage is of these
    cost_per_hour: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `plan` found, and how images fare with it."""

    demand: Demand
    gateways: TierPlan
    models: TierPlan
    batching: Batching
    expected: Prediction  # with all replicas
    after_loss: Prediction  # with those that are needed

    @property
    def cost_per_hour(self) -> float:
        """Of both tiers, headroom included."""
        return self.gateways.cost_per_hour + self.models.cost_per_hour

    @property
    def cost_per_million(self) -> float:
        """Of a million images, as long as the demand lasts."""
        return self.cost_per_hour / (3600 * self.demand.images_per_second) * 1e6

    def summary(self) -> str:
        """What it comes to, in four lines."""
        gateways, models = self.gateways, self.models
        return (
            f"{gateways.replicas} gateways ({gateways.needed} needed),"
            f" {models.replicas} models ({models.needed} needed)\n"
            f"p99 {1000 * self.expected.p99_seconds:.0f} ms,"
            f" after a loss {1000 * self.after_loss.p99_seconds:.0f} ms\n"
            f"busy: gateways {gateways.utilisation:.0%}, models {models.utilisation:.0%},"
            f" in batches of {self.expected.mean_batch:.1f}\n"
            f"{self.cost_per_hour:.2f} an hour, {self.cost_per_million:.2f} a million images"
        )

    def changes(self) -> dict[str, str]:
        """Which field of which manifest gets which value; `batching` has a file of its own."""
        rows = {}
        for name, tier in (("gateway", self.gateways), ("model", self.models)):
            container = f"k8s/base/{name}.yaml: spec.template.spec.containers[0]"
            rows[f"{container}.resources.requests.cpu"] = f"{tier.cores:g}"
            autoscaler = f"k8s/components/autoscaling/{name}.yaml: spec"
            rows[f"{autoscaler}.minReplicas"] = str(tier.min_replicas)
            rows[f"{autoscaler}.maxReplicas"] = str(tier.replicas)
            metric = f"{autoscaler}.metrics[0]"
            if tier.target_percent is None:
                rows[f"{metric}.type"] = "Pods, of a metric that counts images a second"
                rows[f"{metric}.pods.target.averageValue"] = f"{tier.target_images_per_second:.3g}"
            else:
                rows[f"{metric}.resource.target.averageUtilization"] = str(tier.target_percent)
        return rows


def plan(
    demand: Demand,
    gateway: GatewayTier,
    model: ModelTier,
    headroom: Headroom = Headroom(),
    *,
    batch_timeout_seconds: float = 0.0,
) -> Plan:
    """The cheapest numbers of replicas that meet the demand, and their settings.

    What one gateway and one model may be given, for the wanted p99 and at the least price an image,
    does not depend on the demand: dividing by it gives the numbers, for models the most that are
    needed. Raises CannotBeMet where even replicas with next to nothing to do are too slow.
    """
    per_call = demand.images_per_call
    sizes = tuple(size for size in model.sizes() if size >= per_call)
    if not sizes:
        raise CannotBeMet(
            f"a call may bring {per_call} images, but the model's largest batch has"
            f" {model.sizes()[-1]}: lower images_per_call, here and at the gateway"
        )
    batching, at_gateway, at_model = _limits(
        demand.p99_seconds, demand.overhead_seconds, gateway, model, sizes, batch_timeout_seconds
    )

    def fare(gateways: int, models: int) -> Prediction:
        return predict(
            gateway,
            model,
            batching,
            images_per_second=demand.images_per_second,
            gateways=gateways,
            models=models,
            overhead_seconds=demand.overhead_seconds,
        )

    gateways = math.ceil(demand.images_per_second / at_gateway - EPSILON)
    most = math.ceil(demand.images_per_second / at_model - EPSILON)
    # As if they were alone, so many models would be needed; taking turns, fewer may do.
    models = 1 + bisect_left(
        range(1, most), True, key=lambda few: fare(gateways, few).p99_seconds <= demand.p99_seconds
    )
    needed = gateways, models
    limits = at_gateway, max(at_model, demand.images_per_second / models)
    numbers = [headroom.replicas(*each) for each in zip(needed, (gateway, model), strict=True)]
    expected, after_loss = fare(*numbers), fare(*needed)

    def tier_plan(tier: Tier, index: int, utilisation: float) -> TierPlan:
        replicas = numbers[index]
        # As much as a replica may get, so that those that are left can take the share of the lost.
        target = limits[index] * needed[index] / replicas / (1 + TOLERANCE)
        return TierPlan(
            needed=needed[index],
            replicas=replicas,
            room=replicas + tier.max_surge,
            min_replicas=headroom.replicas(1, tier),
            utilisation=utilisation,
            target_images_per_second=target,
            target_percent=_percent(gateway, model, batching, tier, target),
            cores=tier.cores,
            cost_per_hour=replicas * tier.price_per_hour,
        )

    return Plan(
        demand=demand,
        gateways=tier_plan(gateway, 0, expected.gateway_utilisation),
        models=tier_plan(model, 1, expected.model_utilisation),
        batching=batching,
        expected=expected,
        after_loss=after_loss,
    )


def _percent(
    gateway: GatewayTier, model: ModelTier, batching: Batching, tier: Tier, target: float
) -> int | None:
    """How busy a replica's cores are at `target`, or None where that does not tell the load.

    A thread that runs small batches is as busy as one that runs large ones. If half the load uses
    almost as much, no threshold tells them apart.
    """
    if tier is gateway:
        return math.floor(100 * target / gateway.images_per_second())
    full, half = (
        batch_queue(model, batching, rate / model.batch_threads).utilisation
        for rate in (target, target / 2)
    )
    return math.floor(100 * full) if not model.gpu and half < TELLING * full else None


@lru_cache(maxsize=256)
def _limits(
    p99_seconds: float,
    overhead_seconds: float,
    gateway: GatewayTier,
    model: ModelTier,
    sizes: tuple[int, ...],
    timeout: float,
) -> tuple[Batching, float, float]:
    """Batch settings, and what a gateway and a model may be given, at the least price an image."""
    found, least = [], math.inf
    for size in sizes:
        batching = _batching(model, size, timeout, p99_seconds)
        rates = [load * model.images_per_second(size) for load in LOADS]
        for load in GATEWAY_LOADS:
            at_gateway = load * gateway.images_per_second()

            def seconds(rate, at_gateway=at_gateway, batching=batching):
                return predict(
                    gateway,
                    model,
                    batching,
                    images_per_second=rate,
                    gateways=rate / at_gateway,
                    models=1,
                    overhead_seconds=overhead_seconds,
                ).p99_seconds

            within = bisect_right(rates, p99_seconds, key=seconds)
            least = min(least, seconds(rates[0]))
            if within:
                at_model = rates[within - 1]
                price = gateway.price_per_hour / at_gateway + model.price_per_hour / at_model
                found.append((price, -at_model, -at_gateway, size))
    if not found:
        alone = overhead_seconds + gateway.seconds() + timeout + model.seconds(1, 1)
        raise CannotBeMet(
            f"a p99 of {1000 * p99_seconds:.0f} ms cannot be had with any number of replicas:"
            f" an image alone takes {1000 * alone:.0f} ms, and the p99 of replicas with next to"
            f" nothing to do is {math.ceil(1000 * least)} ms. Ask for that, or take a faster model"
        )
    # The smallest batch that is about as cheap: it needs less memory, and less time to warm up.
    price = min(found)[0] * (1 + NEGLIGIBLE)
    smallest = min(size for each, *_, size in found if each <= price)
    _, at_model, at_gateway, size = min(each for each in found if each[-1] == smallest)
    return _batching(model, size, timeout, p99_seconds), -at_gateway, -at_model


def _batching(model: ModelTier, size: int, timeout: float, p99_seconds: float) -> Batching:
    """The settings for a maximum: whoever would wait for longer than the aim is refused at once."""
    late = math.ceil(model.batch_threads * p99_seconds / model.seconds(size, size))
    return Batching(
        max_batch_size=size,
        batch_timeout_seconds=timeout,
        allowed_batch_sizes=tuple(each for each in model.sizes() if each <= size and model.gpu),
        num_batch_threads=model.batch_threads,
        max_enqueued_batches=late + 1,  # the one that is being filled counts, too
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
