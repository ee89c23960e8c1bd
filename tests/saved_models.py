"""Tiny SavedModels for tests: a few operations each, saved in a fraction of a second."""

from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

NUMBERS = [
    tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128, tf.bool,
    tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64,
]  # fmt: skip


def save_scale(path: Path, echoes: bool = False) -> Path:
    """Save a model of many signatures.

    serving_default: x (-1, 3) float32 -> scaled (-1, 3) = 2 * x and total (-1);
    pixels: x (-1, 3) uint8 -> scaled (-1, 3) = 2 * x, by the same variable;
    words: text (-1,) string -> upper (-1,) and found (-1,) int64 (a lookup: a=1, b=2, else -1);
    count: limit int32 -> counted, one step at a time;
    with `echoes`, echo_DTYPE: value, any shape -> value.
    """
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64)), -1
    )

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def scale(x):
        return {"scaled": module.factor * x, "total": tf.reduce_sum(x @ tf.ones((3, 1)), axis=1)}

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.uint8, "x")])
    def pixels(x):
        return {"scaled": module.factor * tf.cast(x, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")])
    def words(text):
        return {"upper": tf.strings.upper(text), "found": module.table[text]}

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32, "limit")])
    def count(limit):
        return {"counted": tf.while_loop(lambda i: i < limit, lambda i: (i + 1,), (0,))[0]}

    def echo(dtype):
        spec = tf.TensorSpec(None, dtype, "value")
        return tf.function(lambda value: {"value": tf.identity(value)}, input_signature=[spec])

    signatures = {"serving_default": scale, "pixels": pixels, "words": words, "count": count}
    if echoes:
        signatures |= {f"echo_{dtype.name}": echo(dtype) for dtype in [*NUMBERS, tf.string]}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def save_half_plus_two(path: Path) -> Path:
    """Save TensorFlow Serving's own example in TensorFlow 1's style: x (-1, 1) -> y = x / 2 + 2."""
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        x = v1.placeholder(tf.float32, (None, 1), "x")
        y = tf.add(x * v1.get_variable("half", initializer=0.5, use_resource=False), 2.0)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})
    return path


def write_warmup(path: Path, *records: PredictRequest | bytes) -> None:
    """Write the warm-up file of the SavedModel in `path`: requests, or records as they are."""
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            if isinstance(record, PredictRequest):
                record = PredictionLog(predict_log={"request": record}).SerializeToString()
            writer.write(record)
