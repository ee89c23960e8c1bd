"""Draw the README's plots from benchmarks/*.json into docs/.

    python -m benchmarks.draw

Grey ink and no background, so that they can be read on light and on dark pages.
"""

import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.common import ROOT
from tutorial.plots import COLOURS, plain_powers

INK = "#848d97"
STYLE = {
    "svg.hashsalt": "the same ids each time",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    ),
    "grid.color": INK,
}


def load(result: dict) -> Figure:
    """What is answered, and how late, against what is offered to 1, 2 and 5 gateways.

    Bars reach from the least to the most of the rounds.
    """
    figure, (rates, times) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    curve = result["curve"]
    most = max(point["offered"] for point in curve)
    rates.plot([0, most], [0, most], color=INK, linestyle=":", label="all that is offered")
    direct = result["end_to_end"]["direct_images_per_s"]["median"]
    rates.axhline(direct, color=INK, linestyle="--", label="the model, called directly")
    for gateways, colour in zip(sorted({p["gateways"] for p in curve}), COLOURS, strict=False):
        points = [point for point in curve if point["gateways"] == gateways]
        name = "1 gateway" if gateways == 1 else f"{gateways} gateways"
        offered = [point["offered"] for point in points]
        rates.plot(offered, [p["answered"] for p in points], "o-", color=colour, label=name)
        times.plot(offered, [1000 * p["p50"] for p in points], "o-", color=colour)
        p99 = [1000 * p["p99"] for p in points]
        bars = [_bars(p["p99"], p["p99_of_rounds"]) for p in points]
        times.errorbar(
            offered, p99, list(zip(*bars, strict=True)), fmt="o--", color=colour, capsize=3
        )
    rates.set(xlabel="offered, images/s", title="answered, images/s", ylim=(0, None))
    times.set(xlabel="offered, images/s", title="ms to the answer: p50, and p99 broken")
    times.set_yscale("log")
    plain_powers(times)
    rates.legend(fontsize=8)
    for axes in (rates, times):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    return figure


def _bars(seconds: float, rounds: dict) -> tuple[float, float]:
    """How many ms the least and the most of the rounds are below and above."""
    return max(0, 1000 * (seconds - rounds["least"])), max(0, 1000 * (rounds["most"] - seconds))


def draw_all(folder: Path = ROOT / "docs") -> list[Path]:
    """Draw every plot; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "load.svg"
    with matplotlib.rc_context(STYLE):
        figure = load(json.loads((ROOT / "benchmarks/scale.json").read_text()))
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)
    return [path]


if __name__ == "__main__":
    matplotlib.use("agg")
    print(*draw_all(), sep="\n")
