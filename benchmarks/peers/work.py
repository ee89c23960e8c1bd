"""What each peer does with a request: a picture's bytes become pixels, and pixels become scores."""

import io
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf
from PIL import Image

BATCH = 8


def read_pixels(data: bytes) -> np.ndarray:
    """Return a picture file as the course does: (1, 299, 299, 3) float32 in -1..1."""
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB").resize((299, 299), Image.Resampling.NEAREST)
    return np.asarray(small, np.float32)[np.newaxis] / np.float32(127.5) - 1


class Model:
    """The SavedModel in the folder MODEL, with THREADS for an operation (0: all)."""

    def __init__(self) -> None:
        """Load it for TensorFlow or, with RUNTIME=openvino, for OpenVINO; run it once a size."""
        path, threads = Path(os.environ["MODEL"]), int(os.environ["THREADS"])
        if os.environ.get("RUNTIME") == "openvino":
            import openvino

            model = openvino.Core().compile_model(path, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
            self._run = lambda images: model([images])[0]
        else:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            self._loaded = tf.saved_model.load(path)
            signature = self._loaded.signatures["serving_default"]
            [name] = signature.structured_input_signature[1]
            self._run = lambda images: next(
                iter(signature(**{name: tf.constant(images)}).values())
            ).numpy()
        for size in range(1, BATCH + 1):
            self(np.zeros((size, 299, 299, 3), np.float32))

    def __call__(self, images: np.ndarray) -> list[dict[str, float]]:
        """Return the scores of images (n, 299, 299, 3), by the numbers of the labels."""
        return [{str(i): s for i, s in enumerate(row)} for row in self._run(images).tolist()]
