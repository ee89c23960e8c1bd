"""A SavedModel run by OpenVINO, on CPUs often several times as fast: for --runtime=openvino.

OpenVINO reads only the signature named serving_default. So each signature becomes a model: it is
read from a copy of the graph in which it has that name, beside links to the variables.
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
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.saved_model.loader_impl import SavedModelLoader
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

from model_server import errors
from model_server.engines import Feeds
from model_server.tuning import available_cpus

_ADVICE = "OpenVINO cannot run this signature; serve the model with --runtime=tensorflow."

_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """The compiled models of a SavedModel's signatures."""

    joins = True

    def __init__(self, path: Path, *, bfloat16: bool = False, threads: int = 0):
        """Compile every signature that OpenVINO can run; with `bfloat16`, compute in it.

        `threads` are those of one run (0: one per processor). If they are fewer than the
        processors, several runs go on side by side. Signatures that OpenVINO cannot run (strings,
        tables) are refused when they are called. Raises tf.errors.OpError when there is no
        SavedModel, or no signature that it can run.
        """
        cpus = available_cpus()
        threads = threads or cpus
        self.runs_at_once = max(1, cpus // threads)
        properties = {
            "NUM_STREAMS": self.runs_at_once,
            "INFERENCE_NUM_THREADS": self.runs_at_once * threads,
            # Two servers on one machine would be bound to the same processors.
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
        }
        graph = _read_graph(path)
        self.signatures = SignatureDefMap()
        self._models: list[_Model] = []
        for name, signature in graph.signature_def.items():
            self.signatures.signature_def[name].CopyFrom(signature)
            try:
                with _only(path, graph, signature) as folder:
                    compiled = openvino.Core().compile_model(folder, "CPU", properties)
                self._models.append(_Model(signature, compiled))
            except RuntimeError as error:  # all that OpenVINO raises
                _log.warning("OpenVINO cannot run signature %s of %s: %s", name, path, error)
        if not self._models:
            raise errors.Unimplemented(f"{path}: {_ADVICE}")

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        self._models.clear()

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Feed arrays, return those asked for in `timeout` seconds. Raises tf.errors.OpError."""
        for model in self._models:
            if model.takes(feeds, fetches):
                return model.run(feeds, fetches, timeout)
        raise errors.Unimplemented(_ADVICE)


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

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Do what OpenVinoEngine.run does, for this signature."""
        for name, array in feeds.items():
            self._check(name, array)
        try:
            request = self._idle.get_nowait()  # one call at a time may use it
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            inputs = {self._inputs[name]: array for name, array in feeds.items()}
            request.start_async(inputs, share_inputs=True)
            if not request.wait_for(math.ceil(1000 * min(timeout, 1e6))):  # at most 11 days
                request.cancel()
                with suppress(RuntimeError):  # says that it was cancelled
                    request.wait()  # it reads the caller's arrays until it has ended
                raise errors.DeadlineExceeded("the request's time was over while OpenVINO ran it")
            outputs = [request.get_tensor(self._outputs[name]).data.copy() for name in fetches]
        except RuntimeError as error:
            raise errors.Internal(f"OpenVINO: {' '.join(str(error).split())}") from error
        self._idle.put(request)
        return outputs

    def _check(self, name: str, array: np.ndarray) -> None:
        """Refuse a dtype that OpenVINO would convert silently, and a shape that does not fit."""
        wanted, given = self._dtypes[name], tf.as_dtype(array.dtype)
        if given != wanted:
            raise errors.InvalidArgument(
                f"input {name} has dtype {given.name}; the model takes {wanted.name}"
            )
        shape = self._compiled.input(self._inputs[name]).partial_shape
        if not shape.compatible(openvino.PartialShape(list(array.shape))):
            raise errors.InvalidArgument(
                f"input {name} has shape {list(array.shape)}; the model takes {shape}"
            )


def _read_graph(path: Path) -> MetaGraphDef:
    try:
        return SavedModelLoader(str(path)).get_meta_graph_def_from_tags([tf.saved_model.SERVING])
    except (OSError, RuntimeError) as error:
        raise errors.NotFound(f"{path} is not the folder of a SavedModel: {error}") from error


@contextmanager
def _only(path: Path, graph, signature: SignatureDef) -> Iterator[Path]:
    """Make a SavedModel that has this one signature, while the context lasts."""
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
