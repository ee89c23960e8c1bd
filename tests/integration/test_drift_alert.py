"""The drift alert: Prometheus itself decides about what a gateway counted for changed photos.

benchmarks/drift.json has the counts of `python -m benchmarks.drift`.
"""

import json
import shutil
import subprocess

import pytest

from tutorial import ROOT

RULES = ROOT / "compose/drift.yml"
MEASURED = json.loads((ROOT / "benchmarks/drift.json").read_text())
EXPECTED = MEASURED["reference"]["shares"]
CHANGES = [name for name, value in MEASURED.items() if "counts" in value]
LIMIT = 0.1  # bits
MINUTES = 30  # in which the pictures come

pytestmark = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed: part of Debian's prometheus"
)


def series(name, signal, each, values):
    return {"series": f'{name}{{job="gateway",signal="{signal}",bin="{each}"}}', "values": values}


def firing(signal):
    """Describe the alert for a signal, as promtool compares it."""
    summary = f"gateway: the {signal} of the pictures is not what the reference expects"
    labels = {"severity": "warning", "job": "gateway", "signal": signal}
    return {"exp_labels": labels, "exp_annotations": {"summary": summary}}


def assert_alerts(folder, counts, signals, expected=EXPECTED):
    """Let promtool check that exactly these signals fire after pictures with these counts."""
    given = [
        series("gateway_pictures_total", signal, each, f"0+{count / MINUTES}x{MINUTES}")
        for signal, bins in counts.items()
        for each, count in bins.items()
    ]
    given += [
        series("gateway_expected_share", signal, each, f"{share}x{MINUTES}")
        for signal, bins in expected.items()
        for each, share in bins.items()
    ]
    question = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": given,
                "alert_rule_test": [
                    {
                        "eval_time": f"{MINUTES}m",
                        "alertname": "PicturesChanged",
                        "exp_alerts": [firing(signal) for signal in signals],
                    }
                ],
            }
        ],
    }
    file = folder / "test.json"  # JSON is YAML
    file.write_text(json.dumps(question))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("change", CHANGES)
def test_alert_fires_for_the_signals_that_changed(tmp_path, change):
    measured = MEASURED[change]
    signals = [name for name, value in measured["divergence"].items() if value > LIMIT]
    assert bool(signals) == (change != "as they are")
    assert_alerts(tmp_path, measured["counts"], signals)


def test_few_pictures_fire_no_alert(tmp_path):
    measured = MEASURED["darkened"]
    few = 140 / measured["pictures"]
    counts = {
        signal: {each: few * count for each, count in bins.items()}
        for signal, bins in measured["counts"].items()
    }
    assert_alerts(tmp_path, counts, [])


def test_without_a_reference_no_alert_fires(tmp_path):
    assert_alerts(tmp_path, MEASURED["darkened"]["counts"], [], expected={})
