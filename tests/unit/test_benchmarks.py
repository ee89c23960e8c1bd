"""What the benchmarks say of results; what they measure is in their JSON."""

import json

import pytest

from benchmarks import __main__ as everything
from benchmarks import compare, draw
from benchmarks.common import spread
from tutorial.services import ROOT


def result(*rounds: float, **machine: object) -> dict:
    return {"machine": {"cpu": "one", "cpus": 2} | machine, "steps": [{"rate": spread(rounds)}]}


def test_rounds_that_overlap_are_noise():
    assert compare.changes(result(10, 11, 12), result(11.9, 14, 15)) == []


@pytest.mark.parametrize("rounds", [(12.1, 14, 15), (7, 8, 9.9)])
def test_rounds_apart_are_a_change(rounds):
    [change] = compare.changes(result(10, 11, 12), result(*rounds))
    assert change.name == "steps[0].rate"
    assert change.after == spread(rounds)


def test_a_single_round_says_nothing_of_noise():
    assert compare.changes(result(10), result(20, 21)) == []
    assert compare.changes(result(10, 11), result(20)) == []


def test_a_figure_that_is_new_or_gone_is_no_change():
    assert compare.changes({"old": spread([1, 2])}, {"new": spread([5, 6])}) == []


def test_the_report_names_changes_and_another_machine():
    text = compare.report(result(10, 11, 12), result(20, 22, 24, cpus=8))
    assert text.splitlines() == [
        "another machine, cpus: 2 -> 8",
        "steps[0].rate: 11 (10 to 12) -> 22 (20 to 24), +100%",
        "1 figures compared, 1 changed beyond noise",
    ]


@pytest.mark.parametrize("name", everything.BENCHMARKS)
def test_every_benchmark_has_a_result_beside_it(name):
    path = ROOT / "benchmarks" / f"{name}.py"
    assert f"python -m benchmarks.{name}" in path.read_text()
    assert json.loads(path.with_suffix(".json").read_text())


def test_all_of_them_run_are_compared_and_say_whose_weights(tmp_path, monkeypatch, capsys):
    path = tmp_path / "benchmarks/scale.json"
    path.parent.mkdir()
    path.write_text(json.dumps(result(10, 11, 12)))

    def measure(command, **_):
        assert command[1:] == ["-m", "benchmarks.scale"]
        path.write_text(json.dumps(result(20, 21, 22) | {"weights": "random weights"}))

    monkeypatch.setattr(everything, "ROOT", tmp_path)
    monkeypatch.setattr(everything.subprocess, "run", measure)
    everything.run("scale", [])
    assert capsys.readouterr().out.splitlines() == [
        "Xception has random weights",
        "steps[0].rate: 11 (10 to 12) -> 21 (20 to 22), +91%",
        "1 figures compared, 1 changed beyond noise",
    ]


def test_the_planners_figures_are_there():
    scale = json.loads((ROOT / "benchmarks/scale.json").read_text())
    assert len(scale["batches"]["sizes"]) == len(scale["batches"]["seconds"])
    assert 0 < scale["gateway_cpu_seconds"] < min(scale["batches"]["seconds"])
    for point in scale["curve"]:
        assert point.keys() >= {"gateways", "offered", "answered", "p50", "p99"}


def test_the_readmes_plots_are_the_same_for_the_same_results(tmp_path):
    drawn = [draw.draw_all(tmp_path / name) for name in ("one", "other")]
    assert drawn[0]
    for one, other in zip(*drawn, strict=True):
        assert one.read_bytes() == other.read_bytes()
