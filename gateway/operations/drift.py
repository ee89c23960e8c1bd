"""Count what pictures and answers look like, so that a change of the callers' pictures shows.

A picture counts once for each signal, in one bin. An alert compares the shares of the bins with
those of a reference. Only these counts are kept. A busy gateway counts a part of the pictures: that
is enough for shares.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.contract import Contract
from gateway.operations.reference import BOUNDS, MORE, Reference, bins

BUSY = 4  # requests at once; with more of them, one of PART requests is counted
PART = 8
SAMPLE = 40  # pixels of each row and column that brightness and contrast look at


def entropy(probabilities: np.ndarray) -> float:
    """Return the entropy of probabilities (labels,), from 0 for one sure label to 1."""
    some = probabilities[probabilities > 0]
    return float(-(some * np.log(some)).sum() / np.log(max(2, len(probabilities))))


def describe_picture(data: bytes, pixels: np.ndarray) -> dict[str, float]:
    """Return the signals of a picture: its file `data`, and its `pixels`, height x width x colours.

    How transparent pixels are does not count.
    """
    step = max(1, min(pixels.shape[:2]) // SAMPLE)
    sample = pixels[::step, ::step, :3].ravel().astype(np.float32)
    mean = float(sample.sum()) / sample.size
    # NumPy's own variance takes three times as long.
    variance = float(sample @ sample) / sample.size - mean**2
    with Image.open(BytesIO(data)) as image:
        longer, shorter = max(image.size), min(image.size)
    return {
        "brightness": mean,
        "contrast": max(0.0, variance) ** 0.5,
        "longer_side": longer,
        "aspect_ratio": longer / shorter,
    }


def find_bin(signal: str, value: float) -> str:
    """Return the name of the bin of a value: its upper bound, which is part of it, or MORE."""
    bounds = BOUNDS[signal]
    index = bisect_left(bounds, value)
    return str(bounds[index]) if index < len(bounds) else MORE


class DriftMetrics:
    """Hold the counts of one gateway, and the shares that its reference expects."""

    def __init__(
        self,
        registry: CollectorRegistry,
        contract: Contract,
        ref: Reference,
        in_flight: Callable[[], int] = lambda: 1,
    ) -> None:
        """Start at zero, with a series for each bin: so Prometheus sees the first picture.

        `in_flight` returns how many requests the gateway is at work on.
        """
        self._in_flight, self._number = in_flight, itertools.count()
        names = ("signal", "bin")
        counts = Counter("gateway_pictures", "Pictures answered", names, registry=registry)
        self._counts = {
            signal: {each: counts.labels(signal, each) for each in of_signal}
            for signal, of_signal in bins(contract).items()
        }
        unsure = "Pictures whose best label is below the reference's unsure_below"
        self._unsure = Counter("gateway_unsure_pictures", unsure, registry=registry)
        self._contract, self._unsure_below = contract, ref.unsure_below
        share = "Share of the reference's pictures"
        expected = Gauge("gateway_expected_share", share, names, registry=registry)
        for signal, shares in ref.shares.items():
            for each, value in shares.items():
                expected.labels(signal, each).set(value)

    def observe(self, files: list[bytes], pixels: np.ndarray, scores: np.ndarray) -> None:
        """Count pictures: their files, `pixels` (N, height, width, colours), `scores` (N, labels).

        The entropy is left out where the scores of a picture do not sum to 1.
        """
        if self._in_flight() > BUSY and next(self._number) % PART:
            return
        probabilities = self._contract.probabilities(scores)
        for data, each, row in zip(files, pixels, probabilities, strict=True):
            signals = describe_picture(data, each)
            signals["top_probability"] = top = float(row.max())
            if self._contract.scores != "independent":
                signals["entropy"] = entropy(row)
            self._counts["label"][self._contract.labels[row.argmax()]].inc()
            for signal, value in signals.items():
                self._counts[signal][find_bin(signal, value)].inc()
            if top < self._unsure_below:
                self._unsure.inc()
