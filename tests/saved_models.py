"""Tiny SavedModels for tests: a few operations each, saved in a fraction of a second."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.lite.python import schema_py_generated
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

NUMBERS = [
    tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128, tf.bool,
    tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64,
]  # fmt: skip
RARE_NUMBERS = [  # TensorFlow's optimizers complain of some, and run them all the same
    tf.qint8, tf.quint8, tf.qint16, tf.quint16, tf.qint32,
    *(getattr(tf.dtypes.experimental, name) for name in (
        "int2", "uint2", "int4", "uint4", "float8_e5m2", "float8_e5m2fnuz",
        "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    )),
]  # fmt: skip


def save_scale(path: Path, factor: float = 2.0) -> Path:
    """Save a model of many signatures.

    serving_default: x (-1, 3) float32 -> scaled (-1, 3) = factor * x and total (-1);
    words: text (-1,) string -> upper (-1,) and found (-1,) int64 (a lookup: a=1, b=2, else -1);
    echo_DTYPE: value, any shape -> value; count: limit int32 -> counted, one step at a time.
    """
    module = tf.Module()
    module.factor = tf.Variable(factor)
    module.table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(["a", "b"], tf.constant([1, 2], tf.int64)), -1
    )

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def scale(x):
        return {"scaled": module.factor * x, "total": tf.reduce_sum(x @ tf.ones((3, 1)), axis=1)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")])
    def words(text):
        return {"upper": tf.strings.upper(text), "found": module.table[text]}

    @tf.function(input_signature=[tf.TensorSpec((), tf.int32, "limit")])
    def count(limit):
        return {"counted": tf.while_loop(lambda i: i < limit, lambda i: (i + 1,), (0,))[0]}

    signatures = {"serving_default": scale, "words": words, "count": count}
    signatures |= echoes([*NUMBERS, tf.string])
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def save_rare_numbers(path: Path) -> Path:
    """Save the signatures echo_DTYPE for the dtypes that hardly anybody sends."""
    tf.saved_model.save(tf.Module(), str(path), signatures=echoes(RARE_NUMBERS))
    return path


def echoes(dtypes: list[tf.DType]) -> dict:
    """Signatures echo_DTYPE: value, any shape -> value."""

    def echo(dtype):
        spec = tf.TensorSpec(None, dtype, "value")
        return tf.function(lambda value: {"value": tf.identity(value)}, input_signature=[spec])

    return {f"echo_{dtype.name}": echo(dtype) for dtype in dtypes}


def save_half_plus_two(path: Path) -> Path:
    """Save TensorFlow Serving's own example in TensorFlow 1's style: x (-1, 1) -> y = x / 2 + 2.

    serving_default: x -> y; all others read tf.Examples with a feature x (and label, text that is
    "" where it is missing): regress_x_to_y, classify_x_to_y with y for scores, classify_labels
    with two classes and scores, and signatures whose outputs no Classify or Regress can use.
    """
    v1 = tf.compat.v1
    with v1.Session(graph=tf.Graph()) as session:
        serialized = v1.placeholder(tf.string, (None,), "tf_example")
        features = {
            "x": tf.io.FixedLenFeature([1], tf.float32),
            "label": tf.io.FixedLenFeature([1], tf.string, default_value=""),
        }
        parsed = v1.parse_example(serialized, features)
        x = tf.identity(parsed["x"], name="x")
        half = v1.get_variable("half", initializer=0.5, use_resource=False)
        y = tf.add(x * half, 2.0, name="y")
        labels = tf.concat([parsed["label"], tf.strings.upper(parsed["label"])], axis=1)
        session.run(v1.global_variables_initializer())

        def signature(method, inputs, **outputs):
            infos = [
                {alias: v1.saved_model.build_tensor_info(tensor) for alias, tensor in some.items()}
                for some in (inputs, outputs)
            ]
            return v1.saved_model.build_signature_def(*infos, f"tensorflow/serving/{method}")

        example = {"inputs": serialized}
        builder = v1.saved_model.Builder(str(path))
        builder.add_meta_graph_and_variables(
            session,
            [tf.saved_model.SERVING],
            {
                "serving_default": signature("predict", {"x": x}, y=y),
                "regress_x_to_y": signature("regress", example, outputs=y),
                "classify_x_to_y": signature("classify", example, scores=y),
                "classify_labels": signature(
                    "classify", example, classes=labels, scores=tf.concat([y, -y], axis=1)
                ),
                "classify_only_labels": signature("classify", example, classes=labels),
                "classify_flat": signature("classify", example, scores=y[:, 0]),
                "classify_swapped": signature("classify", example, classes=y, scores=y),
                "classify_unequal": signature("classify", example, classes=labels, scores=y),
                "regress_x": signature("regress", {"inputs": x}, outputs=y),
                "regress_sum": signature("regress", example, outputs=tf.reduce_sum(y)[None]),
                "regress_pairs": signature("regress", example, outputs=tf.concat([y, y], axis=1)),
                "regress_labels": signature("regress", example, outputs=parsed["label"]),
            },
        )
        builder.save()
    return path


def save_half_plus_two_of_tensorflow_2(path: Path) -> Path:
    """Save the same in TensorFlow 2's style: two signatures that read tf.Examples.

    Their method names are Predict's, as TensorFlow 2 writes them, and each has its own input.
    """
    module = tf.Module()
    module.half = tf.Variable(0.5)
    spec = tf.TensorSpec((None,), tf.string, "inputs")

    @tf.function(input_signature=[spec])
    def regress(inputs):
        x = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]
        return {"outputs": module.half * x + 2}

    @tf.function(input_signature=[spec])
    def classify(inputs):
        return {"scores": regress(inputs)["outputs"]}

    signatures = {"regress_x_to_y": regress, "classify_x_to_y": classify}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def save_pixels(path: Path) -> Path:
    """Save a model whose signatures share their one weight, the last of them out of strings.

    serving_default: x (-1, 2, 2, 3) float32 -> scores (-1, 3), twice the means, and total (-1);
    of_bytes: x (-1, 2, 2, 3) uint8 -> scores (-1, 3), of x / 127.5 - 1;
    of_text: x (-1,) string -> length (-1,) int32.
    """
    module = tf.Module()
    module.factors = tf.Variable(2.0 * tf.eye(3))

    def scores(x):
        return tf.reduce_mean(x, axis=(1, 2)) @ module.factors

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 3), tf.float32, "x")])
    def of_floats(x):
        return {"scores": scores(x), "total": tf.reduce_sum(scores(x), axis=1)}

    @tf.function(input_signature=[tf.TensorSpec((None, 2, 2, 3), tf.uint8, "x")])
    def of_bytes(x):
        return {"scores": scores(tf.cast(x, tf.float32) / 127.5 - 1)}

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "x")])
    def of_text(x):
        return {"length": tf.strings.length(x)}

    signatures = {"serving_default": of_floats, "of_bytes": of_bytes, "of_text": of_text}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def save_scale_for_lite(path: Path, signature: str = "") -> Path:
    """Save 2 * x as model.tflite; `signature`, x -> y, is stored as TensorFlow Serving reads it.

    Its tensors are serving_default_x:0 and StatefulPartitionedCall:0, (-1, 3) float32.
    """
    module = tf.Module()
    module.factors = tf.Variable(2.0 * tf.eye(3))

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def scale(x):
        return x @ module.factors

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [scale.get_concrete_function()], module
    )
    model = flatbuffer_utils.convert_bytearray_to_object(converter.convert())
    if signature:
        definition = SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
        definition.inputs["x"].name = "serving_default_x:0"
        definition.outputs["y"].name = "StatefulPartitionedCall:0"
        stored = flexbuffers.Dumps({signature: definition.SerializeToString()})
        entry, buffer = schema_py_generated.MetadataT(), schema_py_generated.BufferT()
        entry.name, entry.buffer = "signature_defs_metadata", len(model.buffers)
        buffer.data = np.frombuffer(stored, np.uint8)
        model.metadata.append(entry)
        model.buffers.append(buffer)
    path.mkdir(parents=True)
    (path / "model.tflite").write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
    return path


def write_warmup(path: Path, requests: list[PredictRequest]) -> None:
    """Write the warm-up file of the SavedModel in `path`."""
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    with tf.io.TFRecordWriter(str(file)) as writer:
        for request in requests:
            log = PredictionLog()
            log.predict_log.request.CopyFrom(request)
            writer.write(log.SerializeToString())
