"""Plots of load tests, drawn anew while they run, with error bars over their runs."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import matplotlib.pyplot as plt
from IPython.display import DisplayHandle
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from tqdm import tqdm

from tutorial.load import Result

COLOURS = ("#4480c4", "#d08030", "#4a9a6a", "#9a5aa0", "#b8505a")
Step = TypeVar("Step")


def watched(
    steps: Iterable[Step], draw: Callable[[Figure], None], size: tuple[float, float] = (9, 3.2)
) -> Iterator[Step]:
    """Go through the steps with a progress bar, and draw every second what is known by then.

    `size` is the figure's, in inches. In a notebook the figure stays in its place, and the last one
    is what is kept.
    """
    figure = plt.figure(figsize=size, layout="constrained")
    draw(figure)
    shown, drawn = DisplayHandle(), time.monotonic()
    shown.display(figure)
    steps = list(steps)
    for number, step in enumerate(tqdm(steps), start=1):
        yield step
        if number == len(steps) or time.monotonic() - drawn > 1:
            figure.clear()
            draw(figure)
            shown.update(figure)
            drawn = time.monotonic()
    plt.close(figure)


def error_bars(
    axes: Axes, points: Mapping[float, list[float]], label: str | None = None, **style: object
) -> None:
    """A line through the medians; each bar reaches from the least run to the most."""
    points = {x: runs for x, runs in sorted(points.items()) if runs}
    middles = [statistics.median(runs) for runs in points.values()]
    axes.errorbar(
        list(points),
        middles,
        yerr=_reach(list(points.values())),
        label=label,
        **{"marker": "o", "markersize": 4, "capsize": 3, **style},
    )


def bars(
    axes: Axes, groups: Mapping[str, list[float]], title: str, colour: str = COLOURS[0]
) -> None:
    """A bar for the median of each group of runs, lying, with its name on the left."""
    groups = {name: runs for name, runs in groups.items() if runs}
    middles = [statistics.median(runs) for runs in groups.values()]
    reach = _reach(list(groups.values()))
    axes.barh(list(groups), middles, xerr=reach, color=colour, capsize=3, height=0.6)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.grid(axis="x", alpha=0.3)


def plain_powers(axes: Axes) -> None:
    """Plain numbers on an axis whose scale is one of powers: 50, not 5 x 10^1."""
    for choose in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        choose(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else ""))


def stacked_bars(axes: Axes, rows: Mapping[str, Mapping[str, float]], title: str) -> None:
    """A lying bar for each row, made of its named parts; all rows have the same parts."""
    left = dict.fromkeys(rows, 0.0)
    for part, colour in zip(next(iter(rows.values())), COLOURS, strict=False):
        widths = [row[part] for row in rows.values()]
        axes.barh(
            list(rows), widths, left=list(left.values()), color=colour, height=0.5, label=part
        )
        left = {name: left[name] + row[part] for name, row in rows.items()}
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def load_curves(
    axes: tuple[Axes, Axes], curves: Mapping[str, Mapping[float, list[Result]]]
) -> None:
    """What is answered, and how late, against what is offered: a colour for each curve.

    A curve is offered rate -> runs. On the left the dotted line is all that was asked for; on the
    right p50 is a line and p99 a broken one, on a scale of powers of ten.
    """
    rates, times = axes
    most = max([rate for curve in curves.values() for rate in curve], default=1)
    rates.plot([0, most], [0, most], color="#8b939c", linestyle=":")
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        answered = {rate: [run.answered for run in runs] for rate, runs in curve.items()}
        error_bars(rates, answered, name, color=colour)
        for percent, line in ((50, "-"), (99, "--")):
            late = {
                rate: [1000 * run.percentile(percent) for run in runs]
                for rate, runs in curve.items()
            }
            error_bars(times, late, f"{name}, p{percent}", color=colour, linestyle=line)
    rates.set(xlabel="offered, images/s", title="answered, images/s")
    times.set(xlabel="offered, images/s", title="ms to the answer", yscale="log")
    plain_powers(times)
    for each in axes:
        each.set_xlim(left=0)
        each.grid(alpha=0.3)
        if each.get_legend_handles_labels()[0]:
            each.legend(fontsize=8)


def _reach(groups: list[list[float]]) -> tuple[list[float], list[float]]:
    """How far down and up the runs of each group are from its median."""
    middles = [statistics.median(runs) for runs in groups]
    return (
        [middle - min(runs) for middle, runs in zip(middles, groups, strict=True)],
        [max(runs) - middle for middle, runs in zip(middles, groups, strict=True)],
    )
