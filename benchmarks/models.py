"""The models that are measured, made with a fixed seed, and a process that calls one directly.

    python -m benchmarks.models --save FOLDER
    python -m benchmarks.models --direct FOLDER/xception/1 [--runtime=openvino] [--bfloat16]

`xception` is the full-size Xception of tf_keras.applications. Its weights are random: they stand in
for the course's file, which is a download, and cost as much per image. `mean` does next to nothing.
Both need TensorFlow and Keras, so they run in processes of their own.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from benchmarks.common import ROOT

THIS = [sys.executable, "-m", "benchmarks.models"]
IMAGE = (299, 299, 3)  # as float32: 1,072,812 bytes
BATCH = 8  # images of a direct call, where the rate counts
WEIGHTS = "random weights of a fixed seed, which cost as much as those of the course's file"


def make_images(size: int) -> np.ndarray:
    """Return `size` images of noise, between -1 and 1."""
    return np.random.default_rng(1).uniform(-1, 1, (size, *IMAGE)).astype(np.float32)


def make_request(model: str, name: str, size: int) -> PredictRequest:
    """Return a request with `size` images."""
    request = PredictRequest()
    request.model_spec.name = model
    tensor = request.inputs[name]
    tensor.dtype = 1  # DT_FLOAT
    for length in (size, *IMAGE):
        tensor.tensor_shape.dim.add(size=length)
    tensor.tensor_content = make_images(size).tobytes()
    return request


def time_calls(call: Callable[[], object], seconds: float) -> list[float]:
    """Call once, and again for so many seconds; return how long each call took."""
    times, end = [], time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        call()
        ended = time.perf_counter()
        times.append(ended - started)
        if ended >= end:
            return times


def save_models(folder: Path) -> str:
    """Save both models, the first with a warm-up file; return the name of its input."""
    output = subprocess.run(
        [*THIS, "--save", folder], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    return output.split()[-1]


@contextmanager
def direct(path: Path, *how: str) -> Iterator[tuple[Callable[[int, float], list[float]], int]]:
    """Start a process that calls a SavedModel directly; yield what lets it, and its id.

    That is a function: images of a batch, seconds -> how long each call took. `how` may be
    "--runtime=openvino" and "--bfloat16".
    """
    process = subprocess.Popen(
        [*THIS, "--direct", path, *how],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(size: int, seconds: float) -> list[float]:
        process.stdin.write(f"{size} {seconds}\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    try:
        run(1, 0)  # loaded, and its operations have been run once
        yield run, process.pid
    finally:
        process.stdin.close()
        process.wait()


def _save(folder: Path) -> None:
    """Save both models; print the name of the first one's input."""
    import tensorflow as tf
    import tf_keras
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    tf_keras.utils.set_random_seed(1)
    model = tf_keras.applications.Xception(
        weights=None, classes=10, classifier_activation=None, input_shape=IMAGE
    )
    model.export(folder / "xception" / "1")
    loaded = tf.saved_model.load(folder / "xception" / "1").signatures["serving_default"]
    [name] = loaded.structured_input_signature[1]
    print(name)
    extra = folder / "xception" / "1" / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for size in (1, BATCH):
            log = PredictionLog()
            log.predict_log.request.CopyFrom(make_request("xception", name, size))
            writer.write(log.SerializeToString())

    @tf.function(input_signature=[tf.TensorSpec((None, *IMAGE), tf.float32, "x")])
    def mean(x):
        return {"mean": tf.reduce_mean(x, axis=(1, 2, 3))}

    tf.saved_model.save(tf.Module(), folder / "mean" / "1", signatures=mean)


def _tensorflow_call(path: Path, bfloat16: bool) -> Callable[[np.ndarray], None]:
    import tensorflow as tf

    options = {"auto_mixed_precision_onednn_bfloat16": bfloat16}
    tf.config.optimizer.set_experimental_options(options)
    signature = tf.saved_model.load(path).signatures["serving_default"]
    [name] = signature.structured_input_signature[1]

    def call(images: np.ndarray) -> None:
        for value in signature(**{name: tf.constant(images)}).values():
            value.numpy()

    return call


def _openvino_call(path: Path, bfloat16: bool) -> Callable[[np.ndarray], None]:
    import openvino

    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", properties).create_infer_request()
    return lambda images: request.infer([images], share_inputs=True)


def _call_directly(call: Callable[[np.ndarray], None]) -> None:
    """Answer commands on stdin: "SIZE SECONDS" prints how long each call took in that time."""

    @cache
    def images(size: int) -> np.ndarray:
        batch = make_images(size)
        call(batch)  # the first of a size takes longer
        return batch

    for line in sys.stdin:
        size, seconds = line.split()
        print(json.dumps(time_calls(partial(call, images(int(size))), float(seconds))), flush=True)


def main() -> None:
    """Be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="save the models here")
    parser.add_argument("--direct", type=Path, help="call this SavedModel")
    parser.add_argument("--runtime", choices=("tensorflow", "openvino"), default="tensorflow")
    parser.add_argument("--bfloat16", action="store_true", help="where the processor has it")
    options = parser.parse_args()
    if options.save:
        _save(options.save)
    if options.direct:
        prepare = _openvino_call if options.runtime == "openvino" else _tensorflow_call
        _call_directly(prepare(options.direct, options.bfloat16))


if __name__ == "__main__":
    main()
