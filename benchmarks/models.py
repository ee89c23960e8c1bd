"""Make the models that are measured, and call a model directly in another process.

`xception` is the full-size Xception of tf_keras.applications with random weights of a fixed seed.
They cost as much as those of the course's file, which is a download. `mean` does almost nothing.
`mean_float32` is the same without a signature for uint8 pixels.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from gateway.tensors import encode_request

IMAGE = (299, 299, 3)  # 1,072,812 bytes as float32
LABELS = [f"class {number}" for number in range(10)]
CONTRACT = {
    "signature_name": "serving_default",
    "preprocessing": "xception",
    "labels": LABELS,
    "scores": "logits",
}
WEIGHTS = "random weights of a fixed seed, which cost as much as those of the course's file"


def make_images(size: int) -> np.ndarray:
    """Return `size` images of noise between -1 and 1: float32 (size, 299, 299, 3)."""
    return np.random.default_rng(1).uniform(-1, 1, (size, *IMAGE)).astype(np.float32)


def make_request(model: str, images: np.ndarray, input_name: str = "x") -> bytes:
    """Return a PredictRequest with `images`, ready to send."""
    request = PredictRequest()
    request.model_spec.name = model
    return encode_request(request, input_name, images)


def other_process() -> ProcessPoolExecutor:
    """Return a pool of one new process, which ends with the `with` block."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"))


def save_models(folder: Path, *names: str) -> None:
    """Save the named models as SavedModels, each with its contract.json."""
    with other_process() as pool:
        pool.submit(_save, folder, names).result()


@contextmanager
def direct(
    path: Path, runtime: str = "tensorflow", bfloat16: bool = False
) -> Iterator[Callable[[int, float], dict[str, float]]]:
    """Start a process that calls the SavedModel `path`; yield a function that lets it.

    The function takes the images of a batch and the seconds to go on. It returns the median
    `seconds` of a call, `images_per_s`, and the `cpu_seconds` of an image. `runtime` is
    "tensorflow" or "openvino".
    """
    with other_process() as pool:

        def call(size: int, seconds: float) -> dict[str, float]:
            return pool.submit(_time_calls, path, runtime, bfloat16, size, seconds).result()

        call(1, 0)  # loads the model
        yield call


def _save(folder: Path, names: tuple[str, ...]) -> None:
    import tensorflow as tf
    import tf_keras

    from tutorial.convert import write_warmup
    from tutorial.read_model import read_signature

    def save(name: str, call: Callable, weights: list, *, uint8: bool = True) -> None:
        def serve(dtype, scale):
            spec = tf.TensorSpec((None, *IMAGE), dtype, "x")
            return tf.function(lambda x: {"scores": call(scale(x))}, input_signature=[spec])

        module = tf.Module()
        module.weights = weights
        signatures = {"serving_default": serve(tf.float32, lambda x: x)}
        if uint8:
            signatures["serving_uint8"] = serve(
                tf.uint8, lambda x: tf.cast(x, tf.float32) / 127.5 - 1
            )
        path = folder / name / "1"
        tf.saved_model.save(module, path, signatures=signatures)
        functions = tf.saved_model.load(path).signatures
        saved = [read_signature(functions, signature, LABELS) for signature in signatures]
        write_warmup(path, name, saved)
        contract = json.dumps(CONTRACT | {"model_name": name})
        (folder / name / "contract.json").write_text(contract)

    def mean(images: tf.Tensor) -> tf.Tensor:
        return tf.repeat(tf.reduce_mean(images, (1, 2, 3))[:, None], len(LABELS), 1)

    if "xception" in names:
        tf_keras.utils.set_random_seed(1)
        xception = tf_keras.applications.Xception(
            weights=None, classes=len(LABELS), classifier_activation=None, input_shape=IMAGE
        )
        save("xception", lambda x: xception(x, training=False), xception.variables)
    for name in set(names) - {"xception"}:
        save(name, mean, [], uint8=name == "mean")


@cache
def _load(path: Path, runtime: str, bfloat16: bool) -> Callable[[np.ndarray], object]:
    if runtime == "openvino":
        import openvino

        precision = "bf16" if bfloat16 else "f32"
        properties = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        request = openvino.Core().compile_model(path, "CPU", properties).create_infer_request()
        return lambda images: request.infer([images], share_inputs=True)
    import tensorflow as tf

    options = {"auto_mixed_precision_onednn_bfloat16": bfloat16}
    tf.config.optimizer.set_experimental_options(options)
    signature = tf.saved_model.load(path).signatures["serving_default"]
    [name] = signature.structured_input_signature[1]
    return lambda images: [v.numpy() for v in signature(**{name: tf.constant(images)}).values()]


def _time_calls(
    path: Path, runtime: str, bfloat16: bool, size: int, seconds: float
) -> dict[str, float]:
    call, images, times = _load(path, runtime, bfloat16), make_images(size), []
    call(images)  # the first call of a size takes longer
    cpu = time.process_time()
    while not times or sum(times) < seconds:
        started = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - started)
    count = size * len(times)
    return {
        "seconds": statistics.median(times),
        "images_per_s": count / sum(times),
        "cpu_seconds": (time.process_time() - cpu) / count,
    }
