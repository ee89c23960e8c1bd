"""Measure which changes of the pictures the drift alert notices, and what accuracy does meanwhile.

    python -m benchmarks.drift --photos=PHOTOS [--others=PICTURES] [--output=FILE.json]

PHOTOS has a folder for each label, with photos that the model was not trained on. Every second one
makes the reference. The others go through the gateway as they are, and changed. PICTURES are of
things that are none of the labels.
"""

import io
import math
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import requests
from PIL import Image, ImageEnhance, ImageFilter

from benchmarks.common import parser, run
from gateway.contract import Contract
from gateway.operations import measure_reference
from gateway.operations.reference import bins
from tutorial import ROOT, services
from tutorial.processes import free_ports

MODEL = ROOT / "models/starter"
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "as they are": lambda photo: photo,
    "darkened": lambda photo: ImageEnhance.Brightness(photo).enhance(0.4),
    "rotated": lambda photo: photo.rotate(90, expand=True),
    "blurred": lambda photo: photo.filter(ImageFilter.GaussianBlur(max(photo.size) / 60)),
}


def divergence(live: dict[str, float], expected: dict[str, float]) -> float:
    """Return the Jensen-Shannon divergence of two distributions, in bits."""
    total = 0.0
    for name, share in expected.items():
        middle = (live[name] + share) / 2
        total += sum(each * math.log2(each / middle) for each in (live[name], share) if each) / 2
    return total


def measure_reference_of(photos: list[Path], contract: Contract, gateway: str, admin: str) -> dict:
    """Return what `gateway.operations.measure_reference` writes for these photos."""
    with tempfile.TemporaryDirectory() as name:
        for path in photos:
            (folder := Path(name, path.parent.name)).mkdir(exist_ok=True)
            shutil.copy(path, folder)
        return measure_reference.measure(Path(name), contract, gateway, admin)


def send(
    photos: list[Path], change: Callable, reference: dict, gateway: str, admin: str
) -> dict[str, object]:
    """Send changed photos; return what the gateway counted, and how many answers were right."""
    before, right, unsure = measure_reference.read_counts(admin), 0, 0
    for path in photos:
        with Image.open(path) as photo:
            change(photo.convert("RGB")).save(file := io.BytesIO(), "JPEG", quality=90)
        answer = requests.post(f"{gateway}/classify", files={"file": file.getvalue()}, timeout=30)
        best = answer.json()["predictions"][0]
        right += best["label"] == path.parent.name
        unsure += best["probability"] < reference["unsure_below"]
    after = measure_reference.read_counts(admin)
    counts = {
        signal: {name: after[signal, name] - before[signal, name] for name in expected}
        for signal, expected in reference["shares"].items()
    }
    return {
        "pictures": len(photos),
        "right": round(right / len(photos), 3),
        "unsure": round(unsure / len(photos), 3),
        "divergence": {
            signal: round(divergence({k: v / len(photos) for k, v in each.items()}, expected), 3)
            for (signal, expected), each in zip(
                reference["shares"].items(), counts.values(), strict=True
            )
        },
        "counts": counts,
    }


def main() -> None:
    """Measure everything and write it."""
    options = parser(__doc__, "drift", rounds=1, seconds=0)
    options.add_argument("--photos", type=Path, required=True)
    options.add_argument("--others", type=Path, help="a folder of pictures of other things")
    options = options.parse_args()
    photos = sorted(options.photos.glob("*/*"))
    contract = Contract.read(MODEL / "contract.json")
    model_port, port, admin_port = free_ports(3)
    command = services.model_server_command(MODEL, model_port)
    urls = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    with (
        services.start_model_server("drift-model", command, model_port),
        services.start_gateway(
            port,
            admin_port=admin_port,
            model_port=model_port,
            contract=MODEL / "contract.json",
            name="drift-gateway",
        ),
    ):
        reference = measure_reference_of(photos[::2], contract, *urls)
        steps = {
            name: partial(send, photos[1::2], change, reference, *urls)
            for name, change in CHANGES.items()
        }
        if options.others:
            others = sorted(options.others.glob("*"))
            unchanged = CHANGES["as they are"]
            steps["other things"] = lambda: send(others, unchanged, reference, *urls) | {"right": 0}
        run(steps, options, reference=reference)


if __name__ == "__main__":
    main()
