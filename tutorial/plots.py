"""Draw what load tests measured, with error bars from the least run to the most."""

import statistics
from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from tutorial.load import Result

COLOURS = ("#4480c4", "#d08030", "#4a9a6a", "#9a5aa0", "#b8505a")


def bars(panels: Mapping[str, Mapping[str, list[float]]]) -> None:
    """Draw panels side by side, each with a bar for the median of each group of runs.

    Args:
        panels: title -> name of a group -> what its runs measured. All panels have the same groups.
    """
    rows = max(len(groups) for groups in panels.values())
    figure = plt.figure(figsize=(9, 0.8 + 0.35 * rows), layout="constrained")
    columns = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, groups), colour in zip(columns, panels.items(), COLOURS, strict=False):
        medians, reach = _medians(groups.values())
        axes.barh(list(groups), medians, xerr=reach, color=colour, capsize=3, height=0.6)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", alpha=0.3)
    axes.invert_yaxis()  # the first group on top; the panels share their axis


def load_curve(curve: Mapping[float, list[Result]], patience: float) -> None:
    """Draw what is answered, and how late, against what is offered.

    Args:
        curve: offered rate, in requests a second -> the results of its runs.
        patience: seconds within which an answer should come: the dotted line on the right.
    """
    figure = plt.figure(figsize=(9, 2.8), layout="constrained")
    rates, times = figure.subplots(1, 2)
    rates.plot([0, max(curve)], [0, max(curve)], ":", color="grey", label="all that is offered")
    _line(rates, {rate: [run.answered for run in runs] for rate, runs in curve.items()}, "answered")
    for percent, style in ((50, "-"), (99, "--")):
        late = {r: [1000 * run.percentile(percent) for run in runs] for r, runs in curve.items()}
        _line(times, late, f"p{percent}", linestyle=style)
    times.axhline(1000 * patience, linestyle=":", color="grey")
    times.set_yscale("log")
    plain_powers(times)
    for axes, title in ((rates, "images/s"), (times, "ms to the answer")):
        axes.set_title(title, fontsize=10)
        axes.set(xlabel="offered, images/s", xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def plain_powers(axes: Axes) -> None:
    """Write plain numbers on a logarithmic axis: 50, not 5 x 10^1."""
    for choose in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        choose(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))


def _line(axes: Axes, points: Mapping[float, list[float]], label: str, **style: object) -> None:
    """Draw a line through the medians of the runs at each x."""
    medians, reach = _medians(points.values())
    style |= {"marker": "o", "markersize": 4, "capsize": 3, "color": COLOURS[0]}
    axes.errorbar(list(points), medians, yerr=reach, label=label, **style)


def _medians(groups: Iterable[list[float]]) -> tuple[list[float], list[list[float]]]:
    """Return the median of each group of runs, and how far its least and most are from it."""
    groups = list(groups)
    medians = [statistics.median(runs) for runs in groups]
    down = [median - min(runs) for median, runs in zip(medians, groups, strict=True)]
    up = [max(runs) - median for median, runs in zip(medians, groups, strict=True)]
    return medians, [down, up]
