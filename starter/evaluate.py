"""Judge a model on labelled photos: `python starter/evaluate.py PHOTOS [MODEL.h5]`.

The photos go through the gateway's code for pictures, the model through `tf_keras`. A gateway
shrinks large JPEGs while it decodes them. This prints the accuracy with and without that. It makes
no difference for small photos: `--enlarge 4` makes each four times as wide and high first.
"""

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's start-up notes are not part of the answer

import numpy as np
import tf_keras as keras
from PIL import Image

from gateway.deadline import Deadline
from gateway.images import decode_and_resize
from gateway.preprocessing import scale
from tutorial.training import calibration, count_flop, softmax


def predict(model: keras.Model, photos: list[bytes], *, shrink: bool) -> np.ndarray:
    """Return the logits (photos, labels) that the gateway would get for the photos."""

    def images() -> Iterator[np.ndarray]:
        for photo in photos:
            deadline = Deadline.after(60)
            pixels = decode_and_resize(photo, model.input_shape[1:3], deadline, shrink=shrink)
            yield scale(pixels, "xception")

    return model.predict(images(), verbose=0)


def read(path: Path, times: int) -> bytes:
    """Return a JPEG file, with its sides `times` as long."""
    if times == 1:
        return path.read_bytes()
    with Image.open(path) as photo:
        large = photo.resize((times * photo.width, times * photo.height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90)
    return file.getvalue()


def judge(logits: np.ndarray, classes: np.ndarray, labels: list[str]) -> None:
    """Print how many answers are right, and how many of each class."""
    right = logits.argmax(axis=1) == classes
    error, _ = calibration(softmax(logits), classes)
    print(f"{right.sum()} of {len(right)} photos right: {right.mean():.3f}")
    print(f"expected calibration error {error:.3f}")
    for number, label in enumerate(labels):
        print(f"{label:>12} {right[classes == number].sum():3} of {(classes == number).sum()}")


def main() -> None:
    """Print the cost of the model and how it does on the photos."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of .jpg files for each class")
    starter = Path(__file__).parent / "starter.h5"
    parser.add_argument("model", type=Path, nargs="?", default=starter, help="a .h5 file")
    parser.add_argument("--enlarge", type=int, default=1, help="times that the sides get longer")
    args = parser.parse_args()
    labels = sorted(folder.name for folder in args.photos.iterdir() if folder.is_dir())
    paths = sorted(args.photos.glob("*/*.jpg"))
    classes = np.array([labels.index(path.parent.name) for path in paths])
    model = keras.models.load_model(args.model, compile=False)
    print(f"{args.model.name}: {model.count_params():,} parameters", end=", ")
    print(f"{args.model.stat().st_size / 1e6:.1f} MB, {count_flop(model) / 1e9:.3f} GFLOP an image")
    photos = [read(path, args.enlarge) for path in paths]
    for shrink in (True, False):
        print(f"\nlarge JPEGs shrunk while they are decoded: {shrink}")
        judge(predict(model, photos, shrink=shrink), classes, labels)


if __name__ == "__main__":
    main()
