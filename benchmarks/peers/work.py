"""What each peer does with a request: a picture's bytes become pixels, and pixels become scores."""

import io
import os
import threading
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
        """Load it for TensorFlow or, with PRECISION (f32, bf16), for OpenVINO; run it once a size.

        Without a precision, OpenVINO computes in bfloat16 where the processor can.
        """
        path, threads = Path(os.environ["MODEL"]), int(os.environ["THREADS"])
        if precision := os.environ.get("PRECISION"):
            import openvino

            properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
            self._compiled = openvino.Core().compile_model(path, "CPU", properties)
            self._of_thread = threading.local()
            self._run = self._run_openvino
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

    def _run_openvino(self, images: np.ndarray) -> np.ndarray:
        """Run the model with an infer request of this thread: one serves one call at a time."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return self._of_thread.request.infer([images], share_inputs=True)[0]
