"""One SavedModel, run as TensorFlow Serving runs it: its graph in a session, fed by name.

A session, and not `tf.saved_model.load`, because that is what TensorFlow Serving holds. So any
signature of any SavedModel works (TensorFlow 1 or 2), only what an answer needs is computed, and
errors have the same words: an input's shape, for one, is judged by the operations that use it.
"""

import gc
import math
from collections.abc import Collection
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.config_pb2 import RunOptions
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import errors, monitoring, tensors
from model_server.batching import Batcher
from model_server.config import BatchingParameters

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class SavedModel:
    """A loaded SavedModel; safe to use from many threads at once until it is closed.

    Every error is a tf.errors.OpError: its code is the status to answer, its message the details.
    """

    def __init__(
        self,
        path: Path,
        *,
        tags: Collection[str] = (tf.saved_model.SERVING,),
        batching: BatchingParameters | None = None,
    ):
        """Load the graph with these tags; with `batching`, requests are run together.

        Raises tf.errors.OpError or what TensorFlow raises.
        """
        self._batcher: Batcher | None = None
        if not any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
            raise errors.NotFound(
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}"
                ". Check that the directory exists and that you have the right permissions for "
                "accessing it.",
            )
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph)
        try:
            with self._graph.as_default():
                loaded = tf.compat.v1.saved_model.load(self._session, list(tags), str(path))
        except BaseException:
            self.close()
            raise
        self._session._extend_graph()  # hand over the whole graph now: `run` does not
        self.signatures = SignatureDefMap()  # copies: the rest of what was loaded is let go
        for name, signature in loaded.signature_def.items():
            self.signatures.signature_def[name].CopyFrom(signature)
        if batching:
            self._batcher = Batcher(
                self._run_alone,
                batching,
                (
                    frozenset(info.name for info in signature.inputs.values())
                    for signature in self.signatures.signature_def.values()
                    if signature.inputs
                ),
            )

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        if self._batcher:
            self._batcher.close()
        self._session.close()
        del self._session, self._graph
        gc.collect()  # graphs hold on to themselves in cycles

    def predict(self, request: PredictRequest, timeout: float = math.inf) -> PredictResponse:
        """Answer a PredictRequest within `timeout` seconds.

        The answer's model_spec has the request's model name and the signature; who knows the
        version adds it. Raises tf.errors.OpError.
        """
        name = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if name not in self.signatures.signature_def:
            raise errors.FailedPrecondition(f'Serving signature key "{name}" not found.')
        signature = self.signatures.signature_def[name]
        inputs = _read_inputs(signature, request)
        outputs = _chosen_outputs(signature, request.output_filter)

        arrays = self.run(
            {signature.inputs[alias].name: array for alias, array in inputs.items()},
            [signature.outputs[alias].name for alias in outputs],
            timeout,
        )
        response = PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = name
        for alias, array in zip(outputs, arrays, strict=True):
            tensors.write(array, response.outputs[alias])
        return response

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Run the graph on arrays by tensor name within `timeout` seconds; return those asked for.

        Raises tf.errors.OpError.
        """
        if self._batcher:
            return self._batcher.run(feeds, fetches, timeout)
        return self._run_alone(feeds, fetches, timeout)

    def _run_alone(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Do what `run` says, at once and without company.

        Not through `Session.run`: that converts dtypes silently and refuses shapes other than the
        placeholder's, and TensorFlow Serving does neither.
        """
        fed = {self._tensor(name)._as_tf_output(): array for name, array in feeds.items()}
        fetched = [self._tensor(name) for name in fetches]
        options = RunOptions(timeout_in_ms=_milliseconds(timeout)).SerializeToString()
        buffer = pywrap_tf_session.TF_NewBufferFromString(options)
        try:
            with monitoring.run():
                values = self._session._call_tf_sessionrun(
                    buffer, fed, [tensor._as_tf_output() for tensor in fetched], [], None
                )
        finally:
            pywrap_tf_session.TF_DeleteBuffer(buffer)
        return [  # a scalar comes back bare
            np.asarray(value, dtype=tensor.dtype.as_numpy_dtype)
            for tensor, value in zip(fetched, values, strict=True)
        ]

    def _tensor(self, name: str) -> tf.Tensor:
        try:
            return self._graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
        except (KeyError, ValueError) as error:
            raise errors.InvalidArgument(
                f"Tensor {name}, specified in either feed_devices or fetch_devices was not found "
                "in the Graph",
            ) from error


def _read_inputs(signature: SignatureDef, request: PredictRequest) -> dict[str, np.ndarray]:
    """Return the request's inputs, and the signature's defaults for those it leaves out."""
    sent, known = set(request.inputs), set(signature.inputs)
    if len(sent) > len(known) or (len(sent) < len(known) and not signature.defaults):
        raise errors.InvalidArgument(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_names(sent)}) != len({_names(known)}). Sent extra: {_names(sent - known)}. "
            f"Missing but required: {_names(known - sent)}.",
        )
    arrays = {}
    for alias, info in signature.inputs.items():
        if alias not in sent and alias not in signature.defaults:
            raise errors.InvalidArgument(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_names(sent)}, "
                f"or default input alias set: {','.join(sorted(signature.defaults))}",
            )
        given = request.inputs if alias in sent else signature.defaults
        try:
            arrays[alias] = tensors.read(given[alias])
        except ValueError as error:
            raise errors.InvalidArgument(f"tensor parsing error: {alias}") from error
    if not sent <= known:
        raise errors.InvalidArgument(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & known))}, "
            f"request input: {','.join(sorted(sent))}",
        )
    return arrays


def _chosen_outputs(signature: SignatureDef, output_filter: Collection[str]) -> list[str]:
    """Return the aliases of the outputs asked for: all of them where none is named."""
    chosen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise errors.InvalidArgument(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {_names(signature.outputs)}.",
            )
        if alias in chosen:
            raise errors.InvalidArgument(f"duplicate output tensor alias: {alias}")
        chosen.append(alias)
    return chosen or list(signature.outputs)


def _names(names: Collection[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _milliseconds(seconds: float) -> int:
    """Convert a timeout for RunOptions, where 0 means none: what gRPC gives then is centuries."""
    return max(1, int(seconds * 1000)) if seconds < 1e9 else 0
