"""What a plan starts from: costs of both tiers, what is wanted, and how batches are formed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tutorial import TutorialError

EPSILON = 1e-9


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
