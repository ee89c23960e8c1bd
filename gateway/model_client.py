"""Ask a model behind TensorFlow Serving's gRPC API for predictions, without TensorFlow.

Exported from notebooks/03-tf-serving-connect.ipynb: change the notebook, then run `make export`.
"""

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.images import scale
from gateway.tensors import DTYPES, encode_request, read_tensor


class ModelMismatchError(Exception):
    """Contract and served model do not fit together; the message says where."""


@dataclass(frozen=True)
class Signature:
    """How to call a model: read from its own metadata, never typed."""

    name: str
    input_name: str
    input_size: tuple[int, int]  # height and width of a picture, in pixels
    input_dtype: np.dtype  # float32: pixels scaled as in training; uint8: as they are, in 0…255
    output_name: str


def choose_signature(signatures: Mapping[str, SignatureDef], contract: Contract) -> Signature:
    """Pick the contract's signature; raises ModelMismatchError where the two do not fit."""
    if contract.signature_name not in signatures:
        raise ModelMismatchError(
            f"the model has no signature {contract.signature_name!r}, only {sorted(signatures)}"
        )
    definition = signatures[contract.signature_name]
    inputs = _shapes(definition.inputs, *DTYPES)
    pictures = [name for name, shape in inputs.items() if len(shape) == 4 and shape[3] == 3]
    if len(definition.inputs) != 1 or not pictures:
        raise ModelMismatchError(f"wanted one input of float or uint8 pictures, not {inputs}")
    labels, outputs = len(contract.labels), _shapes(definition.outputs, types_pb2.DT_FLOAT)
    fitting = [name for name, shape in outputs.items() if shape[1:] == (labels,)]
    if len(fitting) != 1:
        raise ModelMismatchError(f"{labels} labels want one output as wide, not {outputs}")
    [picture] = pictures
    dtype = DTYPES[definition.inputs[picture].dtype]
    return Signature(contract.signature_name, picture, inputs[picture][1:3], dtype, fitting[0])


def _shapes(infos: Mapping[str, TensorInfo], *dtypes: int) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(dim.size for dim in info.tensor_shape.dim)
        for name, info in infos.items()
        if info.dtype in dtypes
    }


def specify(spec: model_pb2.ModelSpec, contract: Contract, version: str = "") -> None:
    """Say in a request which model is meant: a number is a version, other words a label."""
    spec.name = contract.model_name
    if version.isdecimal():
        spec.version.value = int(version)
    elif version:
        spec.version_label = version


class Prediction(NamedTuple):
    """What a model said of some pictures."""

    scores: np.ndarray  # of shape (N, labels)
    version: int  # of the model, the one that answered


Metadata: TypeAlias = tuple[tuple[str, str], ...]  # names and values that go beside a call
PREDICT = "/tensorflow.serving.PredictionService/Predict"  # a method's name in gRPC


def predict(
    channel: grpc.Channel,
    contract: Contract,
    signature: Signature,
    images: np.ndarray,
    *,
    version: str = "",
    metadata: Metadata = (),
    timeout: float,
) -> Prediction:
    """Scores for pictures of shape (N, height, width, 3); `version` as in `specify`.

    Raises grpc.RpcError: DEADLINE_EXCEEDED after `timeout` seconds, and what the server answers.
    """
    request = predict_pb2.PredictRequest(output_filter=[signature.output_name])
    specify(request.model_spec, contract, version)
    request.model_spec.signature_name = signature.name
    call = channel.unary_unary(
        PREDICT, response_deserializer=predict_pb2.PredictResponse.FromString
    )
    encoded = encode_request(request, signature.input_name, images)
    response = call(encoded, timeout=timeout, metadata=metadata)
    scores = read_tensor(response.outputs[signature.output_name])
    return Prediction(scores, response.model_spec.version.value)


UNSCALED = "serving_uint8"  # what notebook 01 calls the same function of pixels as they are


def ways_to_call(signatures: Mapping[str, SignatureDef], contract: Contract) -> list[Signature]:
    """Signatures that lead to the same scores: the contract's, and before it what is cheaper.

    Raises ModelMismatchError as `choose_signature`.
    """
    chosen = choose_signature(signatures, contract)
    twin = replace(chosen, name=UNSCALED, input_dtype=np.dtype(np.uint8))
    try:
        unscaled = choose_signature(signatures, replace(contract, signature_name=UNSCALED))
    except ModelMismatchError:  # there is none
        return [chosen]
    return [twin, chosen] if unscaled == twin != chosen else [chosen]


SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "waitForReady": True,  # for no longer than the call's timeout
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
MAX_MESSAGE = 64 * 2**20  # bytes; 32 photos are 34 MB
CHANNEL_OPTIONS = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE,  # what is larger is never retried
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    "grpc.http2.ping_timeout_ms": 3_000,  # else a minute, whatever keepalive_timeout_ms says
    "grpc.dns_min_time_between_resolutions_ms": 5_000,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 250,
    "grpc.max_send_message_length": MAX_MESSAGE,
    "grpc.max_receive_message_length": MAX_MESSAGE,
}


def open_channel(address: str) -> grpc.Channel:
    """A channel that outlives failing servers; nothing is connected before the first call.

    `address` is "host:port", of which every address that DNS knows is used, or a target in gRPC's
    own form, as "ipv4:///10.0.0.1:8500,10.0.0.2:8500". Calls want a timeout: for so long they wait
    for a server. Open it after any fork.
    """
    target = address if ":/" in address else f"dns:///{address}"
    return grpc.insecure_channel(target, options=list(CHANNEL_OPTIONS.items()))


REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)


class ModelClient:
    """A served model: one channel, opened at the first call and kept; safe to share by threads.

    Timeouts are in seconds, for all that a method does; a server that is away is waited for.
    """

    def __init__(
        self,
        address: str,
        contract: Contract,
        *,
        signature_name: str = "",
        version: str = "",
        metadata: Callable[[], Metadata] = tuple,
    ) -> None:
        """Take an address as `open_channel` does and a version as `specify`; nothing is opened yet.

        `signature_name` is the one to call, by default what `ways_to_call` finds. `metadata` is
        asked before each call what is to go with it.
        """
        self.contract = contract
        self.was_ready = False  # whether the model was ever there and fitted the contract
        self._address, self._version, self._metadata = address, version, metadata
        self._signature_name = signature_name
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._ways: list[Signature] = []  # to call the model, as last described

    def describe(self, *, timeout: float) -> Signature:
        """Ask the server now for the contract's signature, or the one that was named.

        Raises ModelMismatchError where it does not fit the contract, grpc.RpcError as `predict`.
        """
        return self._describe(timeout)[-1]

    def signature(self, *, timeout: float) -> Signature:
        """The same as last described; raises as `describe`."""
        return (self._ways or self._describe(timeout))[-1]

    def _describe(self, timeout: float) -> list[Signature]:
        query = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        specify(query.model_spec, self.contract, self._version)
        stub = prediction_service_pb2_grpc.PredictionServiceStub(self._connected())
        answer = stub.GetModelMetadata(query, timeout=timeout, metadata=self._metadata())
        described = get_model_metadata_pb2.SignatureDefMap()
        answer.metadata["signature_def"].Unpack(described)
        if self._signature_name:
            only = replace(self.contract, signature_name=self._signature_name)
            ways = [choose_signature(described.signature_def, only)]
        else:
            ways = ways_to_call(described.signature_def, self.contract)
        self._ways, self.was_ready = ways, True
        return ways

    def predict(self, pixels: np.ndarray, *, timeout: float) -> Prediction:
        """Scores for pictures: RGB, uint8 of shape (N, height, width, 3).

        Raises as the function `predict` and as `describe`; ModelMismatchError for scores that are
        too many, too few or no numbers; DeadlineError when there is no time left to ask.
        """
        deadline = Deadline.after(timeout)
        prediction = self._ask(self._ways or self._describe(timeout), pixels, deadline)
        wanted = (len(pixels), len(self.contract.labels))
        if prediction.scores.shape != wanted or not np.isfinite(prediction.scores).all():
            raise ModelMismatchError(f"the model's answer is not {wanted} numbers")
        return prediction

    def _ask(self, ways: list[Signature], pixels: np.ndarray, deadline: Deadline) -> Prediction:
        signature, *others = ways
        as_they_are = signature.input_dtype == np.uint8
        try:
            return predict(
                self._connected(),
                self.contract,
                signature,
                pixels if as_they_are else scale(pixels, self.contract.preprocessing),
                version=self._version,
                metadata=self._metadata(),
                timeout=deadline.remaining(),
            )
        except grpc.RpcError as error:
            if error.code() not in REFUSED:
                raise
            self._ways = []  # another model may have come in its place: describe it anew
            if not others:
                raise
        return self._ask(others, pixels, deadline)

    def _connected(self) -> grpc.Channel:
        with self._lock:
            if self._channel is None:
                self._channel = open_channel(self._address)
            return self._channel
