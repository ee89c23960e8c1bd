"""Compare the model's answers for photos decoded whole and decoded small, as the gateway does it.

    python -m benchmarks.scaled_decoding DATA/validation [--output=FILE.json]

DATA/validation holds one folder of photos for each class. Every photo is enlarged to 12 megapixels
and saved as JPEG, as a phone would send it. Then the starter model answers twice: for all pixels
decoded, and for the fewer that `gateway.images.decode_small` decodes. The processor time of the two
is compared too, photo by photo; set MALLOC_ARENA_MAX and so on as Dockerfile.gateway does.
"""

import argparse
import io
import os
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tf_keras

from benchmarks.common import ROOT, run, spread, write
from gateway.images import decode, decode_small, open_picture, resize
from gateway.preprocessing import scale

SIZE = (299, 299)
LONG, SHORT = 4000, 3000  # pixels


def enlarge(path: Path) -> bytes:
    """A photo as a JPEG file of 12 megapixels."""
    with Image.open(path) as image:
        size = (LONG, SHORT) if image.width > image.height else (SHORT, LONG)
        large = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    large.save(file, "JPEG", quality=90)
    return file.getvalue()


def compare(paths: list[Path]) -> dict:
    """How often the answers agree and are right, and what decoding small costs beside whole."""
    labels = sorted({path.parent.name for path in paths})
    truth = np.array([labels.index(path.parent.name) for path in paths])
    ways = {"whole": decode, "small": lambda image: decode_small(image, SIZE)}
    batches: dict[str, list[np.ndarray]] = {how: [] for how in ways}
    ratios = []
    for path in tqdm(paths):
        data, seconds = enlarge(path), {}
        for how, way in ways.items():
            begun = time.thread_time()
            pixels = resize(way(open_picture(data)), SIZE)
            seconds[how] = time.thread_time() - begun
            batches[how].append(scale(pixels, "xception"))
        ratios.append(seconds["small"] / seconds["whole"])
    model = tf_keras.models.load_model(ROOT / "starter/starter.h5", compile=False)
    answers = {
        how: model.predict(np.concatenate(batch), verbose=0).argmax(axis=1)
        for how, batch in batches.items()
    }
    return {
        "photos": len(paths),
        "same_answer": int((answers["whole"] == answers["small"]).sum()),
        "right": {how: int((answer == truth).sum()) for how, answer in answers.items()},
        "small_to_whole": spread(ratios),  # in processor time
    }


def main() -> None:
    """Compare both ways for all photos, print what came out, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder with one folder for each class")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "scaled_decoding.json")
    options = parser.parse_args()
    paths = sorted(options.photos.glob("*/*.jpg"))
    if not paths:
        sys.exit(f"there are no photos in {options.photos}/CLASS/")
    write(run({"enlarged": partial(compare, paths)}), options.output)


if __name__ == "__main__":
    main()
