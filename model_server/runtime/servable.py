"""One version that is served: its signatures, its rules for requests, and the engine it runs on."""

import math
from collections.abc import Collection
from typing import Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import errors, monitoring
from model_server.config import BatchingParameters
from model_server.runtime import tensors
from model_server.runtime.batching import Batcher

DEFAULT_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


class Engine(Protocol):
    """What runs a loaded model; safe to use from many threads at once until it is closed."""

    signatures: SignatureDefMap  # they say which tensors may be fed and fetched, by name

    def run(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        """Feed arrays, return those asked for in `timeout` seconds. Raises tf.errors.OpError."""

    def close(self) -> None:
        """Free the model's memory. No call may be running."""


class Servable:
    """Answers requests with an engine; with `batching`, they are run together.

    Every error is a tf.errors.OpError: its code is the status to answer, its message the details.
    """

    def __init__(self, engine: Engine, batching: BatchingParameters | None = None):
        """Take over the engine: `close` closes it."""
        self.signatures = engine.signatures
        self._engine = engine
        self._batcher: Batcher | None = None
        if batching:
            input_sets = (
                frozenset(info.name for info in signature.inputs.values())
                for signature in self.signatures.signature_def.values()
                if signature.inputs
            )
            self._batcher = Batcher(self._run_alone, batching, input_sets)

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        if self._batcher:
            self._batcher.close()
        self._engine.close()

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
        """Run the model on arrays by tensor name within `timeout` seconds; return those asked for.

        Raises tf.errors.OpError.
        """
        run = self._batcher.run if self._batcher else self._run_alone
        return run(feeds, fetches, timeout)

    def _run_alone(
        self, feeds: dict[str, np.ndarray], fetches: list[str], timeout: float
    ) -> list[np.ndarray]:
        with monitoring.run():
            return self._engine.run(feeds, fetches, timeout)


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
