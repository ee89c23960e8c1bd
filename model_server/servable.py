"""One version that is served: its signatures, its rules for requests, and the engine it runs on."""

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import errors, monitoring, tensors
from model_server.batching import Batcher, Left
from model_server.config import BatchingParameters
from model_server.engines import Engine, Feeds


class Servable:
    """Answers requests with an engine; with `batching`, requests are run together.

    Every error is a tf.errors.OpError. Its code is the status to answer, its message the details.
    """

    def __init__(self, engine: Engine, batching: BatchingParameters | None = None):
        """Take over the engine: `close` closes it."""
        self.signatures = engine.signatures
        self._engine = engine
        self._run = self._run_alone
        if batching:
            at_once = max(engine.runs_at_once, batching.num_batch_threads)
            batching = replace(batching, num_batch_threads=at_once)
            self._run = Batcher(self._run_alone, batching, joins=engine.joins).run

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
        self._engine.close()

    def signature(self, name: str) -> SignatureDef:
        """Return the signature with this name, by default serving_default."""
        name = name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        if name not in self.signatures.signature_def:
            known = _names(self.signatures.signature_def)
            raise errors.FailedPrecondition(f'there is no signature "{name}"; there are {known}')
        return self.signatures.signature_def[name]

    def predict(
        self, request: PredictRequest, timeout: float = math.inf, left: Left = lambda: False
    ) -> PredictResponse:
        """Answer a PredictRequest within `timeout` seconds; leave the version out.

        `left` returns whether the caller has left, who then needs no answer.
        """
        signature = self.signature(request.model_spec.signature_name)
        arrays = {}
        for alias, proto in request.inputs.items():
            try:
                arrays[alias] = tensors.read(proto)
            except ValueError as error:
                raise errors.InvalidArgument(
                    f'input "{alias}" is no valid tensor: {error}'
                ) from error
        response = PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.signature_name = (
            request.model_spec.signature_name or tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
        )
        outputs = self.run(signature, arrays, request.output_filter, timeout, left)
        for alias, array in outputs.items():
            response.outputs[alias].CopyFrom(tensors.write(array))
        return response

    def run(
        self,
        signature: SignatureDef,
        inputs: Mapping[str, np.ndarray],
        outputs: Collection[str] = (),
        timeout: float = math.inf,
        left: Left = lambda: False,
    ) -> dict[str, np.ndarray]:
        """Run a signature on its inputs; return the named outputs, or all where none is named."""
        check_inputs(signature, inputs)
        for alias in outputs:
            if alias not in signature.outputs:
                raise errors.InvalidArgument(
                    f'the signature has no output "{alias}"; it has {_names(signature.outputs)}'
                )
        if len(set(outputs)) < len(outputs):
            raise errors.InvalidArgument(f"an output is named twice: {', '.join(outputs)}")
        outputs = list(outputs) or list(signature.outputs)
        # A signature for one size of batch gets no other.
        run = self._run_alone if any(map(_has_fixed_rows, signature.inputs.values())) else self._run
        arrays = run(
            {signature.inputs[alias].name: array for alias, array in inputs.items()},
            [signature.outputs[alias].name for alias in outputs],
            timeout,
            left,
        )
        return dict(zip(outputs, arrays, strict=True))

    def _run_alone(
        self, feeds: Feeds, fetches: list[str], timeout: float, _: Left = lambda: False
    ) -> list[np.ndarray]:
        with monitoring.graph_run():
            return self._engine.run(feeds, fetches, timeout)


def _has_fixed_rows(info: TensorInfo) -> bool:
    return bool(info.tensor_shape.dim) and info.tensor_shape.dim[0].size >= 0


def check_inputs(signature: SignatureDef, inputs: Collection[str]) -> None:
    """Raise tf.errors.InvalidArgumentError where an input is missing, or one too many."""
    if set(inputs) != set(signature.inputs):
        raise errors.InvalidArgument(
            f"the signature takes the inputs {_names(signature.inputs)}; got {_names(inputs)}"
        )


def _names(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none"
