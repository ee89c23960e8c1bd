"""Compare what may run the model on processors: TensorFlow or OpenVINO, float32 or bfloat16.

    python -m benchmarks.runtimes [--photos=DATA/validation] [--rounds=3] [--seconds=8]

Speed: images per second of the full-size Xception, called directly in batches of 8 and through the
model server by 16 clients, as benchmarks.model_server does it. Answers: the starter model's for the
photos (a folder for each class), against TensorFlow's in float32. Everything is printed, and
written as JSON with the machine it came from.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import run, write
from benchmarks.model_server import Runtime, measure_throughput
from benchmarks.models import BATCH, ROOT, WEIGHTS, save_models

RUNTIMES = {
    "tensorflow": Runtime(),
    "tensorflow_bfloat16": Runtime(bfloat16=True),
    "openvino": Runtime("openvino"),
    "openvino_bfloat16": Runtime("openvino", bfloat16=True),
}
AIMS = {
    "throughput": "through the server at least 0.85 of the runtime's own direct rate",
    "answers": "the same top answer",
}
MODEL = ROOT / "models/starter/1"
SIZE = (299, 299)


def measure_speed(folder: Path, name: str, rounds: int, seconds: float) -> dict:
    """Each runtime's throughput, and how many times TensorFlow's in float32 that is."""
    found = {
        key: measure_throughput(folder, name, rounds, seconds, runtime)
        for key, runtime in RUNTIMES.items()
    }
    for result in found.values():
        ratios = [
            mine["server_images_per_s"] / reference["server_images_per_s"]
            for mine, reference in zip(result["rounds"], found["tensorflow"]["rounds"], strict=True)
        ]
        result["times_tensorflow_float32"] = round(float(np.median(ratios)), 2)
    return found


def compare_answers(photos: Path) -> dict:
    """How far scores and top answers are from TensorFlow's in float32, and how many are right."""
    from gateway.images import decode, open_picture, resize
    from gateway.preprocessing import scale
    from model_server.__main__ import engine
    from model_server.flags import parse

    paths = sorted(photos.glob("*/*.jpg"))
    labels = sorted({path.parent.name for path in paths})
    truth = np.array([labels.index(path.parent.name) for path in paths])
    pixels = [resize(decode(open_picture(path.read_bytes())), SIZE) for path in paths]
    images = scale(np.concatenate(pixels), "xception")
    scores = {}
    for key, runtime in RUNTIMES.items():
        flags = parse([f"--model_base_path={MODEL.parent}", *runtime.server_flags])
        loaded = engine(flags)(MODEL)
        signature = loaded.signatures.signature_def["serving_default"]
        [source], [output] = signature.inputs.values(), signature.outputs.values()
        scores[key] = np.concatenate(
            [
                loaded.run({source.name: images[start : start + BATCH]}, [output.name], 60)[0]
                for start in range(0, len(images), BATCH)
            ]
        )
        loaded.close()
    reference = scores["tensorflow"]
    return {
        "photos": len(paths),
        **{
            key: {
                "same_top_answer": int((mine.argmax(1) == reference.argmax(1)).sum()),
                "right": int((mine.argmax(1) == truth).sum()),
                "largest_difference_of_a_score": float(f"{abs(mine - reference).max():.2g}"),
            }
            for key, mine in scores.items()
        },
        "range_of_scores": [round(float(end), 2) for end in (reference.min(), reference.max())],
    }


def has_bfloat16_units() -> bool | None:
    """Whether the processor multiplies matrices of bfloat16 (AMX); None where nobody says."""
    if not Path("/proc/cpuinfo").exists():
        return None
    return " amx_bf16" in Path("/proc/cpuinfo").read_text()


def main() -> None:
    """Measure everything, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, help="one folder of .jpg files for each class")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of one measurement of a round")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "runtimes.json")
    options = parser.parse_args()
    if options.photos and not any(options.photos.glob("*/*.jpg")):
        sys.exit(f"there are no photos in {options.photos}/CLASS/")
    if options.photos and not MODEL.exists():
        sys.exit(f"there is no {MODEL.relative_to(ROOT)}: run notebook 01, or `make run`, first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        x = save_models(folder)
        steps = {"speed": lambda: measure_speed(folder, x, options.rounds, options.seconds)}
        if options.photos:
            steps["answers"] = lambda: compare_answers(options.photos)
        result = run(steps)
    result["machine"]["amx_bf16"] = has_bfloat16_units()
    settings = {"rounds": options.rounds, "seconds": options.seconds}
    write(result | {"settings": settings, "weights": WEIGHTS, "aims": AIMS}, options.output)


if __name__ == "__main__":
    main()
