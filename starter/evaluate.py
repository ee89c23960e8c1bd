"""Judge a model on labelled photos: `python starter/evaluate.py PHOTOS [MODEL.h5]`.

PHOTOS holds one folder of .jpg files for each class. The photos go through the very preprocessing
of the gateway, the model through `tf_keras`.
"""

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # TensorFlow's start-up notes are not part of the answer

import numpy as np
import tf_keras as keras
from keras_image_helper import create_preprocessor

from tutorial.training import calibration, count_flop, softmax


def main(photos: Path, file: Path) -> None:
    """Print the cost of the model in `file` and how it does on `photos`, class by class."""
    labels = sorted(folder.name for folder in photos.iterdir() if folder.is_dir())
    paths = sorted(photos.glob("*/*.jpg"))
    model = keras.models.load_model(file, compile=False)
    preprocessor = create_preprocessor("xception", target_size=model.input_shape[1:3])
    logits = np.concatenate([model(preprocessor.from_path(str(path))) for path in paths])
    classes = np.array([labels.index(path.parent.name) for path in paths])
    right = logits.argmax(axis=1) == classes
    error, _ = calibration(softmax(logits), classes)
    print(f"{file.name}: {model.count_params():,} parameters, {file.stat().st_size / 1e6:.1f} MB")
    print(f"{count_flop(model) / 1e9:.3f} GFLOP an image")
    print(f"{right.sum()} of {len(right)} photos right: {right.mean():.3f}")
    print(f"expected calibration error {error:.3f}")
    for number, label in enumerate(labels):
        print(f"{label:>12} {right[classes == number].sum():3} of {(classes == number).sum()}")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not Path(sys.argv[1]).is_dir():
        sys.exit("usage: python starter/evaluate.py PHOTOS [MODEL.h5]   (PHOTOS: a folder a class)")
    own = Path(__file__).parent / "starter.h5"
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) == 3 else own)
