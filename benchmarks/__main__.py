"""Run all benchmarks, compare with the last results, draw the README's plots.

    python -m benchmarks [--only scale …] [--photos DATA/validation]

Results go to benchmarks/NAME.json, with the machine that they come from. That takes half an hour on
two cores, which nothing else should use meanwhile.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import matplotlib

from benchmarks import draw
from benchmarks.common import ROOT
from benchmarks.compare import report

BENCHMARKS = ("gateway", "model_server", "runtimes", "scale", "scaled_decoding")
PHOTOS = {"runtimes": "--photos={}", "scaled_decoding": "{}"}  # how to say where these are


def run(name: str, arguments: list[str]) -> None:
    """Run a benchmark; print what changed since its last result."""
    path = ROOT / "benchmarks" / f"{name}.json"
    before = json.loads(path.read_text()) if path.exists() else None
    subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,  # the file says it all
    )
    after = json.loads(path.read_text())
    if "weights" in after:
        print(f"Xception has {after['weights']}")
    if before is not None:
        print(report(before, after), flush=True)


def main() -> None:
    """Run all of them, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=BENCHMARKS)
    parser.add_argument("--photos", type=Path, help="a folder of photos for each class")
    options = parser.parse_args()
    for name in options.only:
        print(f"\n{name}", flush=True)
        if name == "scaled_decoding" and not options.photos:
            print("not run: it needs photos, --photos DATA/validation")
            continue
        wants_photos = options.photos and name in PHOTOS
        run(name, [PHOTOS[name].format(options.photos.resolve())] if wants_photos else [])
    matplotlib.use("agg")
    for path in draw.draw_all():
        print(f"\ndrew {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
