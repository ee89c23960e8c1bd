"""Work on pictures in a process that does nothing else, for benchmarks.gateway.

    python -m benchmarks.pictures floor|phone COUNT

Prints milliseconds of processor time, or ratios of them, as JSON. What else a process has loaded,
TensorFlow for example, changes how it gets its memory, and so what large arrays cost.
"""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from keras_image_helper import create_preprocessor
from PIL import Image, ImageFilter

from benchmarks.common import PICTURE
from gateway.images import decode, decode_small, open_picture, resize
from tutorial import ROOT

SIZE = (299, 299)


def measure(what: str, count: int, **environment: str) -> dict:
    """Run this module in a process with the environment; return what it prints."""
    command = [sys.executable, "-m", "benchmarks.pictures", what, str(count)]
    env = os.environ | environment
    output = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True).stdout
    return json.loads(output)


def cpu_of(clock: Callable[[], float], work: Callable[[], object], count: int) -> float:
    """Return the milliseconds that `clock`, in seconds, moves during one call of `work`."""
    for _ in range(min(20, count)):
        work()
    before = clock()
    for _ in range(count):
        work()
    return 1000 * (clock() - before) / count


def floor(count: int) -> dict[str, float]:
    """Decode, resize and scale a picture as the course's gateway does."""
    preprocessor, data = create_preprocessor("xception", SIZE), PICTURE.read_bytes()

    def work() -> None:
        with Image.open(io.BytesIO(data)) as image:
            preprocessor.convert_to_tensor(image).tobytes()

    return {"floor": cpu_of(time.process_time, work, count)}


def phone_photo(grain: float) -> bytes:
    """Return a JPEG file of 12 megapixels: an enlarged sample with the noise of a sensor."""
    image = Image.open(PICTURE).resize((3000, 4000), Image.Resampling.LANCZOS)
    pixels = np.asarray(image.filter(ImageFilter.SHARPEN), np.float32)
    noise = np.random.default_rng(1).normal(0, grain, pixels.shape) if grain else 0
    file = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def phone(count: int) -> dict[str, float]:
    """Decode phone photos small, as the gateway does, and whole; return the ratio of the two."""
    found = {}
    for grain in (0, 2, 6):
        data = phone_photo(grain)
        small = partial(_decode, decode_small, data, SIZE)
        whole = cpu_of(time.process_time, partial(_decode, decode, data), count)
        ratio = cpu_of(time.process_time, small, count) / whole
        found[f"grain {grain}, {len(data) / 1e6:.1f} MB"] = ratio
    return found


def _decode(how: Callable, data: bytes, *size: tuple[int, int]) -> np.ndarray:
    return resize(how(open_picture(data), *size), SIZE)


if __name__ == "__main__":
    print(json.dumps({"floor": floor, "phone": phone}[sys.argv[1]](int(sys.argv[2]))))
