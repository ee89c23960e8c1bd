"""Measure which changes of the pictures the drift alert notices, and what accuracy does meanwhile.

    python -m benchmarks.drift --photos=PHOTOS [--others=PICTURES] [--output=FILE.json]

PHOTOS has a folder for each label, with photos that the model was not trained on. Every second one
makes the reference. The others go through the gateway as they are, and changed. PICTURES are of
things that are none of the labels.
"""

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean

from PIL import Image

from benchmarks.common import parser, run
from gateway.contract import Contract
from gateway.operations import measure_reference
from tutorial import ROOT, drift, services
from tutorial.processes import free_ports

CONTRACT = ROOT / "models/starter/contract.json"


def reference_of(photos: list[Path], urls: tuple[str, str]) -> dict:
    """Return what `gateway.operations.measure_reference` writes for these photos."""
    with tempfile.TemporaryDirectory() as name:
        for path in photos:
            (folder := Path(name, path.parent.name)).mkdir(exist_ok=True)
            shutil.copy(path, folder)
        return measure_reference.measure(Path(name), Contract.read(CONTRACT), *urls)


def measure(photos: list[Path], change: Callable, reference: dict, urls: tuple[str, str]) -> dict:
    """Send changed photos; return what the gateway counted, and what its answers were worth."""
    pictures = ((path.parent.name, change(Image.open(path).convert("RGB"))) for path in photos)
    counts, answers = drift.send(pictures, *urls)
    found = drift.divergences(counts, reference["shares"])
    below = reference["unsure_below"]
    return {
        "pictures": len(answers),
        "right": round(mean(each.label == each.best for each in answers), 3),
        "unsure": round(mean(each.probability < below for each in answers), 3),
        "divergence": {signal: round(value, 3) for signal, value in found.items()},
        "counts": {
            signal: {name: counts[signal, name] for name in shares}
            for signal, shares in reference["shares"].items()
        },
    }


def main() -> None:
    """Measure everything and write it."""
    options = parser(__doc__, "drift", rounds=1, seconds=0)
    options.add_argument("--photos", type=Path, required=True)
    options.add_argument("--others", type=Path, help="a folder of pictures of other things")
    options = options.parse_args()
    photos = sorted(options.photos.glob("*/*"))
    model_port, port, admin_port = free_ports(3)
    command = services.model_server_command(CONTRACT.parent, model_port)
    urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    ports = {"admin_port": admin_port, "model_port": model_port}
    with (
        services.start_model_server("drift-model", command, model_port),
        services.start_gateway(port, contract=CONTRACT, name="drift-gateway", **ports),
    ):
        reference = reference_of(photos[::2], urls)
        changes = {"as they are": lambda photo: photo} | drift.CHANGES
        steps = {
            name: partial(measure, photos[1::2], change, reference, urls)
            for name, change in changes.items()
        }
        if options.others:
            others = sorted(options.others.glob("*"))
            steps["other things"] = partial(measure, others, lambda it: it, reference, urls)
        run(steps, options, reference=reference)


if __name__ == "__main__":
    main()
