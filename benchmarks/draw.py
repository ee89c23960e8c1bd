"""Draw the README's plot from benchmarks/scale.json into docs/load.svg.

    python -m benchmarks.draw

Grey ink and no background, so that it is readable on light and on dark pages.
"""

import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from benchmarks.common import FOLDER
from tutorial import ROOT
from tutorial.plots import COLOURS, plain_powers

INK = "#848d97"
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
STYLE = {
    "svg.hashsalt": "the same ids each time",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "legend.frameon": False,
    "grid.color": INK,
    **dict.fromkeys(INKED, INK),
}


def draw_load(result: dict) -> Figure:
    """Draw what is answered, and how late, against what is offered to 1, 2 and 5 gateways.

    Bars reach from the least to the most of the rounds.
    """
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    rates, times = figure.subplots(1, 2)
    curve = result["curve"]
    most = max(point["offered"] for point in curve)
    rates.plot([0, most], [0, most], color=INK, linestyle=":", label="all that is offered")
    direct = result["end_to_end"]["direct_images_per_s"]["median"]
    rates.axhline(direct, color=INK, linestyle="--", label="the model, called directly")
    for gateways, colour in zip(sorted({p["gateways"] for p in curve}), COLOURS, strict=False):
        points = [point for point in curve if point["gateways"] == gateways]
        name = "1 gateway" if gateways == 1 else f"{gateways} gateways"
        offered = [p["offered"] for p in points]
        rates.plot(offered, [p["answered"] for p in points], "o-", color=colour, label=name)
        times.plot(offered, [1000 * p["p50"] for p in points], "o-", color=colour)
        p99 = [1000 * p["p99"] for p in points]
        down = [max(0, 1000 * (p["p99"] - p["p99_of_rounds"]["least"])) for p in points]
        up = [max(0, 1000 * (p["p99_of_rounds"]["most"] - p["p99"])) for p in points]
        times.errorbar(offered, p99, [down, up], fmt="o--", color=colour, capsize=3)
    rates.set(xlabel="offered, images/s", title="answered, images/s", ylim=(0, None))
    times.set(xlabel="offered, images/s", title="ms to the answer: p50, and p99 broken")
    times.set_yscale("log")
    plain_powers(times)
    rates.legend(fontsize=8)
    for axes in (rates, times):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    return figure


def draw(path: Path = ROOT / "docs/load.svg") -> Path:
    """Draw the plot into `path`; return it."""
    with matplotlib.rc_context(STYLE):
        figure = draw_load(json.loads((FOLDER / "scale.json").read_text()))
        figure.savefig(path, transparent=True, metadata={"Date": None})
    return path


if __name__ == "__main__":
    print(draw())
