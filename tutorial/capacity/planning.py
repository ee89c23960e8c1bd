"""How many replicas a demand needs, with which settings, and what they cost."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache

from tutorial.capacity.queues import Prediction, batch_queue, predict
from tutorial.capacity.tiers import (
    EPSILON,
    Batching,
    CannotBeMet,
    Demand,
    GatewayTier,
    Headroom,
    ModelTier,
    Tier,
)

LOADS = [percent / 100 for percent in range(1, 96)]  # of a model's capacity, that are tried
GATEWAY_LOADS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # … of a gateway's
NEGLIGIBLE = 0.02  # of a price
TELLING = 0.8  # half the load must use less than this of what the load uses, to scale by it
TOLERANCE = 0.1  # a HorizontalPodAutoscaler does nothing as long as it is off by less
ONE_LOST = Headroom()


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
    headroom: Headroom = ONE_LOST,
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
