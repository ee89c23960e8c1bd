"""A SavedModel, run as TensorFlow Serving runs it: its graph in a session, fed by name.

A session, and not `tf.saved_model.load`, because that is what TensorFlow Serving holds. So any
signature of any SavedModel works (TensorFlow 1 or 2), only what an answer needs is computed, and
errors have the same words: an input's shape, for one, is judged by the operations that use it.
"""

import gc
import importlib.util
from collections.abc import Collection
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import RunOptions
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from model_server import errors
from model_server.runtime import tensors


class TensorFlowEngine:
    """A SavedModel's graph and its variables."""

    def __init__(
        self,
        path: Path,
        tags: Collection[str] = (tf.saved_model.SERVING,),
        *,
        bfloat16: bool = False,
    ):
        """Load the graph with these tags; with `bfloat16`, compute with it, which takes AMX to pay.

        Raises tf.errors.OpError or what TensorFlow raises.
        """
        if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise errors.NotFound(
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
                ". Check that the directory exists and that you have the right permissions for "
                "accessing it.",
            )
        self._options = tf.compat.v1.ConfigProto()
        if bfloat16:
            rewriting = self._options.graph_options.rewrite_options
            rewriting.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        self.signatures = SignatureDefMap()  # copies: the rest of what is loaded is let go
        try:
            self._load(path, list(tags))
        except tf.errors.NotFoundError as error:
            if "Op type not registered" not in error.message or not _register_text_operations():
                raise
            self._load(path, list(tags))

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        self._session.close()
        del self._session, self._graph
        gc.collect()  # graphs hold on to themselves in cycles

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Feed arrays, within `timeout` seconds return those asked for. Raises tf.errors.OpError.

        Not through `Session.run`: that converts dtypes silently and refuses shapes other than the
        placeholder's, and TensorFlow Serving does neither.
        """
        fed = {self._tensor(name)._as_tf_output(): array for name, array in feeds.items()}
        fetched = [self._tensor(name) for name in fetches]
        options = RunOptions(timeout_in_ms=_milliseconds(timeout)).SerializeToString()
        buffer = pywrap_tf_session.TF_NewBufferFromString(options)
        try:
            values = self._session._call_tf_sessionrun(
                buffer, fed, [tensor._as_tf_output() for tensor in fetched], [], None
            )
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
        return [
            tensors.as_array(value, tensor.dtype)
            for tensor, value in zip(fetched, values, strict=True)
        ]

    def _load(self, path: Path, tags: list[str]) -> None:
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=self._options)
        try:
            with self._graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, tags, str(path))
        except BaseException:
            self.close()
            raise
        self._session._extend_graph()  # hand over the whole graph now: `run` does not
        for name, signature in loaded.signature_def.items():
            self.signatures.signature_def[name].CopyFrom(signature)

    def _tensor(self, name: str) -> tf.Tensor:
        try:
            return self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as error:
            raise errors.InvalidArgument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found "
                "in the Graph",
            ) from error


def _register_text_operations() -> bool:
    """Make TF Text's operations known, which TensorFlow Serving has built in; say if it is there.

    Without its Python code, which would import Keras.
    """
    found = importlib.util.find_spec("tensorflow_text")
    if not found:
        return False
    for library in sorted(Path(found.origin).parent.glob("python/ops/_*.so")):
        tf.load_op_library(str(library))
    return True


def _milliseconds(seconds: float) -> int:
    """Convert a timeout for RunOptions, where 0 means none: what gRPC gives then is centuries."""
    return max(1, int(seconds * 1000)) if seconds < 1e9 else 0
