"""What the benchmarks say of results; what they measure is in their JSON."""

import json

import pytest

from benchmarks import __main__ as everything
from benchmarks import common, compare, draw, peers
from benchmarks.common import spread


def result(*rounds: float, **machine: object) -> dict:
    return {"machine": {"cpu": "one", "cpus": 2} | machine, "steps": [{"rate": spread(rounds)}]}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ((10, 11, 12), (11.9, 14, 15), 0),  # the rounds overlap
        ((10, 11, 12), (12.1, 14, 15), 1),
        ((10, 11, 12), (7, 8, 9.9), 1),
        ((10,), (20, 21), 0),  # a single round says nothing about noise
        ((10, 11), (20,), 0),
    ],
)
def test_report_counts_only_rounds_that_do_not_overlap(before, after, changed):
    text = compare.report(result(*before), result(*after))
    assert text.splitlines()[-1] == f"1 figures compared, {changed} changed beyond noise"
    assert len(text.splitlines()) == 1 + changed


def test_report_skips_figures_that_are_new_or_gone():
    text = compare.report({"old": spread([1, 2])}, {"new": spread([5, 6])})
    assert text == "0 figures compared, 0 changed beyond noise"


def test_run_reports_changes_and_another_machine(tmp_path, monkeypatch, capsys):
    path = tmp_path / "scale.json"
    path.write_text(json.dumps(result(10, 11, 12)))

    def measure(command, **_):
        assert command[1:] == ["-m", "benchmarks.scale"]
        path.write_text(json.dumps(result(20, 22, 24, cpus=8)))

    monkeypatch.setattr(everything, "FOLDER", tmp_path)
    monkeypatch.setattr(everything.subprocess, "run", measure)
    everything.run("scale", [])
    assert capsys.readouterr().out.splitlines() == [
        "another machine, cpus: 2 -> 8",
        "steps[0].rate: 11 (10 to 12) -> 22 (20 to 24), +100%",
        "1 figures compared, 1 changed beyond noise",
    ]


def test_only_measures_one_step_again_and_keeps_the_others(tmp_path, capsys):
    output = tmp_path / "result.json"
    steps = {"slow": lambda: 1, "quick": lambda: 2}

    def measure(*only):
        options = common.parser("Measure.", "result", rounds=1, seconds=1)
        common.run(steps, options.parse_args([f"--output={output}", *only]))
        result = json.loads(output.read_text())
        return result["slow"], result["quick"]

    assert measure() == (1, 2)
    steps |= {"slow": lambda: 3, "quick": lambda: 4}
    assert measure("--only", "quick") == (1, 4)
    del steps["slow"]  # as without the photos that it needs
    assert measure() == (1, 4)


def test_draw_gives_the_same_plot_for_the_same_results(tmp_path):
    one, other = (draw.draw(tmp_path / name) for name in ("one.svg", "other.svg"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("size", [1e-4, 10])
def test_peers_with_other_scores_are_found_however_small_these_are(size):
    expected = [size, -size / 10]
    peers.check_scores([size * 1.0001, -size / 10], expected)
    with pytest.raises(AssertionError):
        peers.check_scores([size * 1.006, -size / 10], expected)
