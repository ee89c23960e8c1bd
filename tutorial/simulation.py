"""Arrivals simulated one by one, on SimPy: what tutorial.capacity's formulas are checked against.

The same parts as in a cluster: a Service that picks a gateway at random, gateways whose cores work
on one image after the other, each handing its images to the models in turn, and in every model a
queue that batch threads empty by TensorFlow's rules. Nothing is ever refused.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import simpy

from tutorial.capacity import Batching, Demand, GatewayTier, ModelTier

SETTLING = 0.1  # of the images come before the queues are as long as they will be: not counted
EPSILON = 1e-9  # seconds, by which a clock may be off


@dataclass(frozen=True)
class Simulated:
    """What became of the images: `latencies` in seconds, in the order of their answers."""

    latencies: np.ndarray
    gateway_utilisation: float  # of the cores
    model_utilisation: float  # of the batch threads
    mean_batch: float
    queue_seconds: float  # that an image waited for its batch, on average

    def percentile(self, percent: float) -> float:
        """The seconds that so many per cent of the images stayed below."""
        return float(np.percentile(self.latencies, percent))


class _Gateway:
    """Cores with one queue, and the models in an order of their own."""

    def __init__(self, env: simpy.Environment, tier: GatewayTier, models: Sequence["_Model"]):
        self.cores = simpy.Resource(env, tier.servers())
        self.turns: Iterator[_Model] = cycle(models)
        self.busy = 0.0

    def handle(self, env: simpy.Environment, work: float) -> simpy.events.ProcessGenerator:
        """Work on one image, and hand it over."""
        came = env.now
        with self.cores.request() as core:
            yield core
            yield env.timeout(work)
        self.busy += work
        next(self.turns).take(came, env.now)


class _Model:
    """A queue, and threads that take batches from it."""

    def __init__(self, env: simpy.Environment, tier: ModelTier, batching: Batching):
        self.env, self.tier, self.batching = env, tier, batching
        self.waiting: deque[tuple[float, float]] = deque()  # came to a gateway, came here
        self.news = env.event()
        self.answered: list[
            tuple[float, float, float]
        ] = []  # when, after how long, waited how long
        self.batches, self.busy = 0, 0.0
        for _ in range(batching.num_batch_threads):
            env.process(self.run())

    def take(self, came: float, now: float) -> None:
        """Let an image wait, and idle threads know."""
        self.waiting.append((came, now))
        self.news.succeed()
        self.news = self.env.event()

    def run(self) -> simpy.events.ProcessGenerator:
        """Take a batch when it is full, or its first image has waited for the timeout."""
        limit, timeout = self.batching.max_batch_size, self.batching.batch_timeout_seconds
        while True:
            if not self.waiting:
                yield self.news
                continue
            patience = self.waiting[0][1] + timeout - self.env.now
            if len(self.waiting) < limit and patience > EPSILON:
                yield self.news | self.env.timeout(patience)
                continue
            batch = [self.waiting.popleft() for _ in range(min(limit, len(self.waiting)))]
            started, seconds = self.env.now, self.tier.seconds(len(batch), limit)
            yield self.env.timeout(seconds)
            self.batches, self.busy = self.batches + 1, self.busy + seconds
            now = self.env.now
            self.answered += [(now, now - came, started - here) for came, here in batch]


def simulate(
    gateway: GatewayTier,
    model: ModelTier,
    batching: Batching,
    *,
    images_per_second: float,
    gateways: int,
    models: int,
    overhead_seconds: float = 0.0,
    images: int = 20_000,
    seed: int = 1,
) -> Simulated:
    """Send so many images, one by one at random (a Poisson process), through both tiers.

    The same seed gives the same result. With more images per second than a tier can do, latencies
    grow as long as images come.
    """
    random = np.random.default_rng(seed)
    env = simpy.Environment()
    tiers = [_Model(env, model, batching) for _ in range(models)]
    fronts = [_Gateway(env, gateway, random.permutation(np.array(tiers))) for _ in range(gateways)]
    gaps = random.exponential(1 / images_per_second, images)
    chosen = random.integers(gateways, size=images)
    mean = gateway.seconds()
    if gateway.variation:
        shape = gateway.variation**-2
        work = random.gamma(shape, mean / shape, images)
    else:
        work = np.full(images, mean)

    def arrive() -> simpy.events.ProcessGenerator:
        for gap, one, seconds in zip(gaps.tolist(), chosen.tolist(), work.tolist(), strict=True):
            yield env.timeout(gap)
            env.process(fronts[one].handle(env, seconds))

    env.process(arrive())
    env.run()
    answers = np.array(sorted(answer for tier in tiers for answer in tier.answered))
    answers = answers[round(SETTLING * images) :]
    cores, threads = gateways * gateway.servers(), models * batching.num_batch_threads
    return Simulated(
        latencies=answers[:, 1] + overhead_seconds,
        gateway_utilisation=sum(one.busy for one in fronts) / (cores * env.now),
        model_utilisation=sum(one.busy for one in tiers) / (threads * env.now),
        mean_batch=images / sum(one.batches for one in tiers),
        queue_seconds=float(answers[:, 2].mean()),
    )


def fewest_models(
    demand: Demand,
    gateway: GatewayTier,
    model: ModelTier,
    batching: Batching,
    *,
    gateways: int,
    at_most: int,
    images: int = 20_000,
    seed: int = 1,
) -> int:
    """How many models the simulation needs for the demand; at_most + 1 where these are too few."""
    for models in range(at_most, 0, -1):
        simulated = simulate(
            gateway,
            model,
            batching,
            images_per_second=demand.images_per_second,
            gateways=gateways,
            models=models,
            overhead_seconds=demand.overhead_seconds,
            images=images,
            seed=seed,
        )
        if simulated.percentile(99) > demand.p99_seconds:
            return models + 1
    return 1
