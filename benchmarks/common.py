"""What the benchmarks share: the spread of figures, the machine they come from, the report."""

import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Return median, least and most."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


def describe_machine() -> dict:
    """Return what the figures depend on."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def run(steps: dict[str, Callable[[], object]], only: Iterable[str] | None = None) -> dict:
    """Run the steps, or only some of them; print what each returns, and return all of it."""
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
    }
    for step in only or steps:
        result[step] = steps[step]()
        print(step, json.dumps(result[step], indent=1), flush=True)
    result["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
    print("machine", json.dumps(result["machine"], indent=1))
    return result


def write(result: dict, path: Path) -> None:
    """Keep a result as JSON."""
    path.write_text(json.dumps(result, indent=1) + "\n")
