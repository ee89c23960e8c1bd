"""Run all benchmarks, compare with the last results, draw the README's plot.

    python -m benchmarks [--only scale …] [--photos DATA/validation]

Results go to benchmarks/NAME.json, with the machine that they come from. That takes half an hour on
two cores. Nothing else should use the machine meanwhile.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import draw
from benchmarks.common import FOLDER
from benchmarks.compare import report
from tutorial import ROOT
from tutorial.run import convert

BENCHMARKS = ("cold_start", "gateway", "giving_up", "runtimes", "scale")


def run(name: str, arguments: list[str]) -> None:
    """Run a benchmark; print what changed since its last result."""
    path = FOLDER / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else None
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = json.loads(path.read_text())
    if before is not None:
        print(report(before, after), flush=True)


def main() -> None:
    """Run all of them, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--photos", type=Path, help="a folder of photos for each class")
    options = parser.parse_args()
    convert()
    for name in options.only:
        print(f"\n{name}", flush=True)
        photos = name == "runtimes" and options.photos
        run(name, [f"--photos={photos.resolve()}"] if photos else [])
    print(f"\ndrew {draw.draw().relative_to(ROOT)}")


if __name__ == "__main__":
    main()
