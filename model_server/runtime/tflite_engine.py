"""A TensorFlow Lite model, `model.tflite` in a version's folder, for --use_tflite_model."""

import threading
import warnings
from pathlib import Path

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from model_server import errors

FILE_NAME = "model.tflite"
_SIGNATURES = b"signature_defs_metadata"  # where a model may carry SignatureDefs


class TfLiteEngine:
    """An interpreter, which runs one request at a time."""

    def __init__(self, path: Path):
        """Load the model. Raises tf.errors.OpError."""
        file = path / FILE_NAME
        try:
            content = file.read_bytes()
        except OSError as error:
            raise errors.NotFound(f"{file}; {error.strerror}") from error
        try:
            self._interpreter = _interpreter(content)
            signatures = _stored_signatures(content)
        except Exception as error:  # of many kinds, and the file is not ours
            raise errors.InvalidArgument(
                f"Cannot build FlatBufferModel from buffer. {error}"
            ) from error
        self._turn = threading.Lock()
        self._inputs = {one["name"]: one for one in self._interpreter.get_input_details()}
        self._outputs = {one["name"]: one for one in self._interpreter.get_output_details()}
        self.signatures = SignatureDefMap()
        for name, signature in (signatures or {"serving_default": self._signature()}).items():
            self.signatures.signature_def[name].CopyFrom(signature)

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        del self._interpreter

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Feed arrays, return those asked for; a run cannot be cut short by `timeout`.

        Raises tf.errors.OpError.
        """
        wanted = [_find(self._outputs, name, "output")["index"] for name in fetches]
        with self._turn:
            try:
                self._feed(feeds)
                self._interpreter.invoke()
                return [self._interpreter.get_tensor(index) for index in wanted]
            except (RuntimeError, ValueError) as error:
                raise errors.Internal(f"Failed to run TfLite interpreter: {error}") from error

    def _feed(self, feeds: dict[str, np.ndarray]) -> None:
        inputs = [(_find(self._inputs, name, "input"), array) for name, array in feeds.items()]
        for known, array in inputs:
            if array.dtype != known["dtype"] and array.dtype != object:  # object: strings
                raise errors.InvalidArgument(
                    f"Input {known['name']} expects {tf.as_dtype(known['dtype']).name}, "
                    f"got {tf.as_dtype(array.dtype).name}"
                )
            self._interpreter.resize_tensor_input(known["index"], array.shape)
        self._interpreter.allocate_tensors()
        for known, array in inputs:
            self._interpreter.set_tensor(known["index"], array)

    def _signature(self) -> SignatureDef:
        """Return what TensorFlow Serving makes of a model that carries none."""
        signature = SignatureDef(method_name=tf.saved_model.PREDICT_METHOD_NAME)
        for infos, tensors in (
            (signature.inputs, self._inputs),
            (signature.outputs, self._outputs),
        ):
            for name, tensor in tensors.items():
                _describe(name, tensor, infos[name.split(":")[0]])
        return signature


def _interpreter(content: bytes) -> tf.lite.Interpreter:
    with warnings.catch_warnings():  # that it moves to a package of its own
        warnings.simplefilter("ignore", UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


def _stored_signatures(content: bytes) -> dict[str, SignatureDef]:
    """Return the SignatureDefs in a model's metadata, by name."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == _SIGNATURES:
            stored = model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            found = flexbuffers.Loads(stored)
            return {name: SignatureDef.FromString(text) for name, text in found.items()}
    return {}


def _describe(name: str, tensor: dict, info: TensorInfo) -> None:
    info.name = name
    info.dtype = tf.as_dtype(tensor["dtype"]).as_datatype_enum
    for size in tensor["shape"]:
        info.tensor_shape.dim.add(size=size)


def _find(tensors: dict[str, dict], name: str, kind: str) -> dict:
    """Look a tensor up; early converters left the ":0" of a name away."""
    found = tensors.get(name) or tensors.get(name.split(":")[0])
    if found is None:
        raise errors.Internal(f"Missing {kind} TFLite tensor: {name}: Unknown tensor '{name}'.")
    return found
