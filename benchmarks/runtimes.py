"""Compare what may run a model on processors: TensorFlow or OpenVINO, float32 or bfloat16.

    python -m benchmarks.runtimes [--photos=DATA/validation] [--models models/starter/1 …]

`speed`: images per second of the full-size Xception, called directly in batches of 8, and through
the model server by 16 callers. `models`: images per second of other SavedModels, called directly in
batches of 1 and of 8. `answers`: the starter model's scores for photos (a folder for each class),
against those of TensorFlow in float32.
"""

import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictResponse

from benchmarks.common import BATCH, CALLERS, batching_flags, parser, ratio, run, spread
from benchmarks.models import WEIGHTS, direct, make_images, make_request, save_models
from gateway.images import decode, open_picture, resize
from gateway.preprocessing import scale
from tutorial import ROOT, services
from tutorial.load import PREDICT, measure
from tutorial.processes import free_port

STARTER = ROOT / "models/starter"
RUNTIMES = {
    "tensorflow": ("tensorflow", False),
    "tensorflow_bfloat16": ("tensorflow", True),
    "openvino": ("openvino", False),
    "openvino_bfloat16": ("openvino", True),
}
AIMS = {
    "speed": "through the server at least 0.85 of the runtime's own direct rate",
    "answers": "the same top answer",
}


@contextmanager
def model_server(model: Path, runtime: str, bfloat16: bool, *flags: str):
    """Serve a model folder; yield the address of the server."""
    port = free_port()
    command = [*services.model_server_command(model, port), f"--runtime={runtime}", *flags]
    command += ["--mixed_precision=bfloat16"] * bfloat16
    with services.start_model_server("benchmark-model", command, port):
        yield f"127.0.0.1:{port}"


def measure_speed(folder: Path, rounds: int, seconds: float) -> dict:
    """Measure each runtime, called directly and through the server."""
    flags = batching_flags(folder, timeout_micros=20_000)
    message = make_request("xception", make_images(1))
    found = {}
    for name, runtime in RUNTIMES.items():
        alone, served = [], []
        with (
            model_server(folder / "xception", *runtime, *flags) as address,
            direct(folder / "xception/1", *runtime) as call,
        ):
            for length in [1, *[seconds] * rounds]:  # the first one warms up
                alone.append(call(BATCH, length)["images_per_s"])
                load = measure(f"grpc://{address}", message, callers=CALLERS, seconds=length)
                served.append(load.answered)
        found[name] = {
            "direct_images_per_s": spread(alone[1:]),
            "server_images_per_s": spread(served[1:]),
            "ratio": ratio(served[1:], alone[1:]),
        }
    return found


def measure_models(paths: list[Path], rounds: int, seconds: float) -> dict:
    """Measure direct calls of each SavedModel in turn; return its images per second."""
    rates: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        for path in paths:
            with direct(path) as call:
                for size in (1, BATCH):
                    rate = call(size, seconds)["images_per_s"]
                    rates.setdefault(str(path), {}).setdefault(f"batch {size}", []).append(rate)
    return {
        path: {name: spread(values) for name, values in sizes.items()}
        for path, sizes in rates.items()
    }


def compare_answers(photos: Path) -> dict:
    """Compare the scores of each runtime with those of TensorFlow in float32."""
    paths = sorted(photos.glob("*/*.jpg"))
    labels = sorted({path.parent.name for path in paths})
    truth = np.array([labels.index(path.parent.name) for path in paths])
    pixels = [resize(decode(open_picture(path.read_bytes())), (299, 299)) for path in paths]
    images = scale(np.concatenate(pixels), "xception")
    scores = {}
    for name, runtime in RUNTIMES.items():
        with model_server(STARTER, *runtime) as address, grpc.insecure_channel(address) as channel:
            predict = channel.unary_unary(PREDICT, response_deserializer=PredictResponse.FromString)
            answers = [predict(make_request("starter", image[None], "input_8")) for image in images]
        scores[name] = np.array([answer.outputs["dense_7"].float_val for answer in answers])
    reference = scores["tensorflow"]
    return {"photos": len(paths)} | {
        name: {
            "same_top_answer": int((mine.argmax(1) == reference.argmax(1)).sum()),
            "right": int((mine.argmax(1) == truth).sum()),
            "largest_difference_of_a_score": float(f"{abs(mine - reference).max():.2g}"),
        }
        for name, mine in scores.items()
    }


def main() -> None:
    """Measure everything and write it."""
    arguments = parser(__doc__, "runtimes", rounds=3, seconds=8)
    arguments.add_argument("--photos", type=Path, help="one folder of .jpg files for each class")
    arguments.add_argument(
        "--models", type=Path, nargs="+", default=[STARTER.relative_to(ROOT) / "1"]
    )
    options = arguments.parse_args()
    if options.photos and not any(options.photos.glob("*/*.jpg")):
        sys.exit(f"there are no photos in {options.photos}/CLASS/")
    for path in options.models:
        if not path.exists():
            sys.exit(f"there is no {path}: run `make run` first")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models(folder, "xception")
        rounds, seconds = options.rounds, options.seconds
        steps = {
            "speed": lambda: measure_speed(folder, rounds, seconds),
            "models": lambda: measure_models(options.models, rounds, seconds),
        }
        if options.photos:
            steps["answers"] = lambda: compare_answers(options.photos)
        run(steps, options, weights=WEIGHTS, aims=AIMS)


if __name__ == "__main__":
    main()
