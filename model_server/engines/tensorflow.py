"""A SavedModel run as TensorFlow Serving runs it: its graph in a session, fed by tensor name.

A session, and not `tf.saved_model.load`: any signature of any SavedModel works (TensorFlow 1 or 2),
only what an answer needs is computed, and a run can end at its deadline.
"""

import gc
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import RunOptions
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from model_server import errors
from model_server.engines import Feeds
from model_server.engines.folding import Folded
from model_server.tuning import available_cpus


class TensorFlowEngine:
    """A SavedModel's graph and its variables."""

    joins = True

    def __init__(
        self,
        path: Path,
        folded: Folded | None = None,
        *,
        bfloat16: bool = False,
        threads: int = 0,
        at_once: int = 0,
    ):
        """Load the SavedModel in `path`; with `bfloat16`, compute in it, which only AMX does fast.

        `folded` is what folding.fold made of it, and runs in place of it. `threads` are those of an
        operation, `at_once` how many operations run side by side (0: one per core). The first model
        fixes `threads` for all, unless TF_OVERRIDE_GLOBAL_THREADPOOL=1 is in the environment.
        Raises tf.errors.OpError or what TensorFlow raises.
        """
        if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise errors.NotFound(
                f"{path} has no saved_model.pb; is it the folder of a SavedModel?"
            )
        cpus = available_cpus()
        self.runs_at_once = max(1, cpus // (threads or cpus))
        options = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=threads,
            inter_op_parallelism_threads=at_once,
            # Not those of another model: they remember operations as prepared for its `threads`.
            use_per_session_threads=True,
        )
        if bfloat16:
            rewriting = options.graph_options.rewrite_options
            rewriting.auto_mixed_precision_onednn_bfloat16 = RewriterConfig.ON
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=options)
        try:
            with self._graph.as_default():
                if folded:
                    tf.import_graph_def(folded.graph, name="")
                    self._set(folded.weights)
                    signatures = folded.signatures
                else:
                    tags = [tf.saved_model.SERVING]
                    loaded = tf.compat.v1.saved_model.load(self._session, tags, str(path))
                    signatures = loaded.signature_def
        except BaseException:
            self.close()
            raise
        self._session._extend_graph()  # hand over the whole graph now, because `run` does not
        self.signatures = SignatureDefMap()  # copies, so that the rest of `loaded` is freed
        for name, signature in signatures.items():
            self.signatures.signature_def[name].CopyFrom(signature)

    def _set(self, variables: dict[str, np.ndarray]) -> None:
        """Give variables their values, by the names of their handles."""
        assign, values = [], {}
        for name, array in variables.items():
            handle = self._graph.get_tensor_by_name(f"{name}:0")
            value = tf.compat.v1.placeholder(handle.op.get_attr("dtype"), array.shape)
            assign.append(tf.raw_ops.AssignVariableOp(resource=handle, value=value))
            values[value] = array
        self._session.run(assign, values)

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        self._session.close()
        del self._session, self._graph
        gc.collect()  # graphs refer to themselves in cycles

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Feed arrays and return the fetched ones within `timeout` seconds.

        `Session.run` would convert dtypes silently, and has no timeout for one call. Raises
        tf.errors.OpError.
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
            np.asarray(value, tensor.dtype.as_numpy_dtype)  # a scalar comes as a bare value
            for tensor, value in zip(fetched, values, strict=True)
        ]

    def _tensor(self, name: str) -> tf.Tensor:
        try:
            return self._graph.get_tensor_by_name(name)
        except (KeyError, ValueError) as error:  # an operation, as in __saved_model_init_op
            raise errors.InvalidArgument(f"the model has no tensor {name}") from error


def _milliseconds(seconds: float) -> int:
    """Convert a timeout for RunOptions, where 0 means none; gRPC gives centuries for none."""
    return max(1, int(seconds * 1000)) if seconds < 1e9 else 0
