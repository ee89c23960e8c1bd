"""What the benchmarks share: options, rounds, the machine, the file with the result."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from tutorial import ROOT

FOLDER = ROOT / "benchmarks"
PICTURE = ROOT / "starter/samples/t-shirt.jpg"  # 400 x 533 pixels
BATCH = 8
CALLERS = 2 * BATCH


def spread(values: list[float], digits: int = 3) -> dict[str, float]:
    """Return the median, the least and the most of `values`."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
    }


def ratio(values: list[float], bases: list[float]) -> dict[str, float]:
    """Return the spread of `values` divided by `bases`, round by round."""
    return spread([value / base for value, base in zip(values, bases, strict=True)])


def describe_machine() -> dict:
    """Return what the figures depend on."""
    cpu, bfloat16 = platform.processor(), None
    if Path("/proc/cpuinfo").exists():
        text = Path("/proc/cpuinfo").read_text()
        names = [line.split(": ")[1] for line in text.splitlines() if line.startswith("model name")]
        cpu, bfloat16 = next(iter(names), cpu), " amx_bf16" in text
    return {
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "amx_bf16": bfloat16,  # units that multiply matrices of bfloat16
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def parser(module_doc: str, name: str, *, rounds: int, seconds: float) -> argparse.ArgumentParser:
    """Return a parser for the options that all benchmarks have."""
    options = argparse.ArgumentParser(description=module_doc.splitlines()[0])
    options.add_argument("--rounds", type=int, default=rounds)
    options.add_argument("--seconds", type=float, default=seconds, help="of one measurement")
    options.add_argument("--only", nargs="*", help="some of the measurements")
    options.add_argument("--output", type=Path, default=FOLDER / f"{name}.json")
    return options


def batching_flags(folder: Path, timeout_micros: int) -> list[str]:
    """Return the model server's flags for batches of BATCH images; `folder` gets their settings."""
    path = folder / "batching.txt"
    path.write_text(
        f"max_batch_size {{ value: {BATCH} }} batch_timeout_micros {{ value: {timeout_micros} }}"
        " num_batch_threads { value: 2 } max_enqueued_batches { value: 100 }"
    )
    return ["--enable_batching", f"--batching_parameters_file={path}"]


def run(steps: dict[str, Callable], options: argparse.Namespace, **about: object) -> None:
    """Run the steps; print what each returns, and write it to `options.output` at once.

    The file keeps its results of other steps, if this machine has made them.
    """
    result = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {"rounds": options.rounds, "seconds": options.seconds},
        **about,
    }
    chosen = options.only or list(steps)
    if options.output.exists():
        before = json.loads(options.output.read_text())
        if all(before["machine"][name] == result["machine"][name] for name in ("cpu", "cpus")):
            result |= {key: before[key] for key in before.keys() - result.keys() - set(chosen)}
    for step in chosen:
        result[step] = steps[step]()
        print(step, json.dumps(result[step], indent=1), flush=True)
        result["machine"]["load_after"] = [round(load, 2) for load in os.getloadavg()]
        options.output.write_text(json.dumps(result, indent=1) + "\n")
