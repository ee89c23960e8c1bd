"""Plots of load tests."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from tutorial import plots
from tutorial.load import Result


def test_whoever_watches_sees_what_is_known_so_far(monkeypatch):
    now, known, drawn = [0.0], [], []
    monkeypatch.setattr(plots.time, "monotonic", lambda: now[0])
    for step in plots.watched([1, 2, 3, 4], lambda figure: drawn.append(list(known))):
        known.append(step)
        now[0] += 0.7  # it is drawn once a second, and at the end
    assert drawn == [[], [1, 2], [1, 2, 3, 4]]
    assert plt.get_fignums() == []  # a figure left open would be shown twice


def test_error_bars_reach_from_the_least_to_the_most():
    axes = plt.figure().subplots()
    plots.error_bars(axes, {2: [5.0, 1.0, 2.0], 1: [3.0], 3: []})
    [line, _, [bars]] = axes.containers[0]
    assert line.get_xydata().tolist() == [[1, 3], [2, 2]]
    assert [each[:, 1].tolist() for each in bars.get_segments()] == [[3, 3], [1, 5]]


def test_load_curves_can_be_drawn_before_anything_is_known():
    axes = plt.figure().subplots(1, 2)
    plots.load_curves(axes, {"model": {10.0: [], 20.0: []}, "chain": {}})
    plots.load_curves(axes, {"model": {10.0: [Result(1, 0, [(0, 0.5, 200)])], 20.0: []}})
    assert axes[1].get_lines()[-1].get_ydata() == pytest.approx([500])


def test_numbers_on_a_scale_of_powers_are_plain():
    axes = plt.figure().subplots()
    axes.set(yscale="log", ylim=(9, 300))
    plots.plain_powers(axes)
    label = axes.yaxis.get_major_formatter()
    assert [label(value, 0) for value in (10, 20, 30, 50, 200)] == ["10", "20", "", "50", "200"]
