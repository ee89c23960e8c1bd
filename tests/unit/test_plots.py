"""Plots of load tests."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import pytest

from tutorial import plots
from tutorial.load import Result


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_bars_show_medians_and_reach_from_the_least_run_to_the_most():
    plots.bars({"left": {"a": [5.0, 1.0, 2.0], "b": [3.0]}, "right": {"a": [1.0], "b": [1.0]}})
    left, right = plt.gcf().axes
    assert (left.get_title(), right.get_title()) == ("left", "right")
    assert [bar.get_width() for bar in left.patches] == [2, 3]
    [reach] = left.collections
    assert [each[:, 0].tolist() for each in reach.get_segments()] == [[1, 5], [3, 3]]
    assert left.yaxis_inverted()  # the first group is on top


def test_load_curve_shows_rates_and_milliseconds():
    slow, fast = Result(1, 0, [(0, 0.5, 200)]), Result(1, 0, [(0, 0.1, 200)])
    plots.load_curve({10.0: [slow, fast], 20.0: [fast]}, patience=0.25)
    rates, times = plt.gcf().axes
    points = {
        each.get_label(): each[0].get_xydata().tolist()
        for each in (*rates.containers, *times.containers)
    }
    assert points["answered"] == [[10, 1], [20, 1]]
    assert points["p99"] == [[10, 300], [20, 100]]
    assert 250 in [line.get_ydata()[0] for line in times.get_lines()]


def test_plain_powers_writes_plain_numbers():
    axes = plt.figure().subplots()
    axes.set(yscale="log", ylim=(9, 300))
    plots.plain_powers(axes)
    label = axes.yaxis.get_major_formatter()
    assert [label(value, 0) for value in (10, 20, 30, 50, 200)] == ["10", "20", "", "50", "200"]
