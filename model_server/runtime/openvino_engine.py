"""A SavedModel run by OpenVINO, on CPUs often several times as fast: for --runtime=openvino.

OpenVINO reads one signature of a SavedModel, the one named serving_default. So each signature gets
a model of its own, read from a copy of the graph in which it has that name; the variables' files
are shared.
"""

import logging
import math
import queue
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import openvino
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.loader_impl import SavedModelLoader
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from model_server import errors

_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """The compiled models of a SavedModel's signatures."""

    def __init__(
        self,
        path: Path,
        tags: Collection[str] = (tf.saved_model.SERVING,),
        *,
        bfloat16: bool = False,
        threads: int = 0,
    ):
        """Compile every signature that OpenVINO can run, for so many threads (0: one per core).

        What it cannot run (strings, tables) is refused when it is asked for; with no signature
        left, raises tf.errors.UnimplementedError. Raises as TensorFlowEngine does, too.
        """
        properties = {
            "PERFORMANCE_HINT": "LATENCY",  # all cores for one run: batches come one by one
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        if threads:
            properties["INFERENCE_NUM_THREADS"] = threads
        graph = _read_graph(path, tags)
        self.signatures = SignatureDefMap()
        self._models: list[_Model] = []
        reason = ""
        for name, signature in graph.signature_def.items():
            self.signatures.signature_def[name].CopyFrom(signature)
            try:
                with _only(path, graph, signature) as folder:
                    compiled = openvino.Core().compile_model(folder, "CPU", properties)
                self._models.append(_Model(signature, compiled))
            except RuntimeError as error:  # all that OpenVINO raises
                reason = " ".join(str(error).split())
                _log.warning("OpenVINO cannot run signature %s of %s: %s", name, path, reason)
        if not self._models:
            raise errors.Unimplemented(
                f"OpenVINO can run no signature of {path}; serve it with --runtime=tensorflow. "
                f"{reason}"
            )

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        self._models.clear()

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Feed arrays, return those asked for in `timeout` seconds. Raises tf.errors.OpError."""
        for model in self._models:
            if model.takes(feeds, fetches):
                return model.run(feeds, fetches, timeout)
        raise errors.Unimplemented(
            "OpenVINO cannot run this signature; serve it with --runtime=tensorflow"
        )


class _Model:
    """One signature, compiled."""

    def __init__(self, signature: SignatureDef, compiled: openvino.CompiledModel):
        """Look up its inputs and outputs by the names of their tensors in TensorFlow."""
        self._compiled = compiled
        self._inputs = {info.name: alias for alias, info in signature.inputs.items()}
        self._dtypes = {info.name: tf.as_dtype(info.dtype) for info in signature.inputs.values()}
        self._outputs = {info.name: alias for alias, info in signature.outputs.items()}
        self._idle: queue.SimpleQueue[openvino.InferRequest] = queue.SimpleQueue()

    def takes(self, feeds: Collection[str], fetches: Collection[str]) -> bool:
        """Return whether a call is one of this signature."""
        return set(feeds) == set(self._inputs) and set(fetches) <= set(self._outputs)

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        for name, array in feeds.items():
            self._check(name, array)
        with self._request() as request:
            inputs = {self._inputs[name]: array for name, array in feeds.items()}
            request.start_async(inputs, share_inputs=True)
            if not request.wait_for(_milliseconds(timeout)):
                request.cancel()
                with suppress(RuntimeError):  # that it was cancelled
                    request.wait()  # it reads the arrays of the caller until it has ended
                raise errors.DeadlineExceeded("Timed out waiting for OpenVINO")
            return [request.get_tensor(self._outputs[name]).data.copy() for name in fetches]

    def _check(self, name: str, array: np.ndarray) -> None:
        """Refuse what OpenVINO would convert silently, or complain of in its own words."""
        wanted, given = self._dtypes[name], tf.as_dtype(array.dtype)
        if given != wanted:
            raise errors.InvalidArgument(
                f"Input {name} expects to be {wanted.name} but {given.name} is provided"
            )
        shape = self._compiled.input(self._inputs[name]).partial_shape
        if not shape.compatible(openvino.PartialShape(list(array.shape))):
            raise errors.InvalidArgument(
                f"Input {name} of shape {shape} cannot have shape {list(array.shape)}"
            )

    @contextmanager
    def _request(self) -> Iterator[openvino.InferRequest]:
        """Lend a request of OpenVINO's, which may run once at a time."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        except RuntimeError as error:
            raise errors.Internal(f"OpenVINO: {' '.join(str(error).split())}") from error
        else:
            self._idle.put(request)


def _milliseconds(seconds: float) -> int:
    return math.ceil(1000 * max(0, min(seconds, 1e6)))  # where there is no deadline: eleven days


def _read_graph(path: Path, tags: Collection[str]):
    """Return the MetaGraphDef with these tags. Raises tf.errors.OpError."""
    try:
        return SavedModelLoader(str(path)).get_meta_graph_def_from_tags(tags)
    except (OSError, RuntimeError) as error:
        raise errors.NotFound(str(error)) from error


@contextmanager
def _only(path: Path, graph, signature: SignatureDef) -> Iterator[Path]:
    """Make a SavedModel that has this one signature, as long as the context lasts."""
    copy = SavedModel(saved_model_schema_version=1)
    copy.meta_graphs.add().CopyFrom(graph)
    copy.meta_graphs[0].signature_def.clear()
    copy.meta_graphs[0].signature_def["serving_default"].CopyFrom(signature)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "saved_model.pb").write_bytes(copy.SerializeToString())
        for shared in ("variables", "assets"):
            if (path / shared).exists():
                (folder / shared).symlink_to(path / shared)
        yield folder
