"""Send pictures to a gateway, and compare what it counts with a reference."""

import io
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import requests
from PIL import Image, ImageEnhance, ImageFilter

from gateway.operations.measure_reference import read_counts

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "darkened": lambda photo: ImageEnhance.Brightness(photo).enhance(0.4),
    "rotated": lambda photo: photo.rotate(90, expand=True),
    "blurred": lambda photo: photo.filter(ImageFilter.GaussianBlur(max(photo.size) / 60)),
}
Shares = dict[str, dict[str, float]]  # of pictures, by signal, then by bin


class Answer(NamedTuple):
    """One answer of /classify, and what would have been right."""

    label: str  # what the picture shows
    best: str  # what the model says
    probability: float  # of the best label
    unsure: bool


def encode(photo: Image.Image) -> bytes:
    """Return a photo as a JPEG."""
    photo.convert("RGB").save(file := io.BytesIO(), "JPEG", quality=90)
    return file.getvalue()


def send(
    pictures: Iterable[tuple[str, Image.Image]], gateway: str, admin: str
) -> tuple[dict[tuple[str, str], float], list[Answer]]:
    """Send pictures, each with its label, one after the other.

    Returns how many the gateway counted in each (signal, bin), and its answers. Raises
    requests.HTTPError for a picture that is refused.
    """
    before, answers = read_counts(admin), []
    for label, picture in pictures:
        answer = requests.post(f"{gateway}/classify", files={"file": encode(picture)}, timeout=30)
        answer.raise_for_status()
        best = answer.json()["predictions"][0]
        answers.append(Answer(label, best["label"], best["probability"], answer.json()["unsure"]))
    after = read_counts(admin)
    return {key: count - before[key] for key, count in after.items()}, answers


def divergence(live: dict[str, float], expected: dict[str, float]) -> float:
    """Return the Jensen-Shannon divergence of two distributions, in bits: from 0 to 1.

    `live` has counts or shares, `expected` shares, by the names of the same bins.
    """
    total, every = 0.0, sum(live.values())
    for name, share in expected.items():
        pair = live[name] / every, share
        middle = sum(pair) / 2
        total += sum(each * math.log2(each / middle) for each in pair if each) / 2
    return total


def divergences(counts: dict[tuple[str, str], float], expected: Shares) -> dict[str, float]:
    """Return the divergence of each signal, from what `send` returned and a reference's shares."""
    return {
        signal: divergence({name: counts[signal, name] for name in shares}, shares)
        for signal, shares in expected.items()
    }
