"""Send pictures to a model server and get scores back, with a client that needs no TensorFlow.

Exported from notebooks/03-tf-serving-connect.ipynb: change the notebook, then run `make export`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import grpc
import numpy as np
from tensorflow_serving.apis import get_model_metadata_pb2 as metadata_pb2
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_service_pb2_grpc

from gateway.contract import Contract
from gateway.deadline import Deadline
from gateway.errors import ModelMismatchError
from gateway.preprocessing import scale
from gateway.signatures import Signature, usable_signatures
from gateway.tensors import encode_request, read_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"  # the method's full name
# The server refuses the request: wrong inputs, or no such signature.
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION)


@dataclass
class ModelClient:
    """Hold what is known about one served model. Threads can share it."""

    channel: Callable[[], grpc.Channel]  # makes it at the first call
    contract: Contract
    version: str = ""  # a number, a version label, or "" for the newest
    signatures: tuple[Signature, ...] = ()  # from the model, the fewest bytes first
    was_ready: bool = False  # True: the model has answered before; False: it may be loading


def fill_model_spec(spec: model_pb2.ModelSpec, name: str, version: str = "") -> None:
    """Write the model's name and version into the `spec` of a request.

    A `version` of digits is a version's number; any other text is a version label.
    """
    spec.name = name
    if version.isdecimal():
        spec.version.value = int(version)
    elif version:
        spec.version_label = version


def describe(client: ModelClient, *, timeout: float) -> tuple[Signature, ...]:
    """Ask the server how to call the model; keep the answer in `client.signatures`.

    Raises grpc.RpcError, and ModelMismatchError if the model does not fit the contract.
    """
    request = metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    fill_model_spec(request.model_spec, client.contract.model_name, client.version)
    stub = prediction_service_pb2_grpc.PredictionServiceStub(client.channel())
    response = stub.GetModelMetadata(request, timeout=timeout)
    described = metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(described)
    client.signatures = usable_signatures(described.signature_def, client.contract)
    client.was_ready = True
    return client.signatures


def build_request(client: ModelClient, signature: Signature, images: np.ndarray) -> bytes:
    """Return the bytes of a PredictRequest. `images` have the signature's size and dtype."""
    request = predict_pb2.PredictRequest(output_filter=[signature.output_name])
    fill_model_spec(request.model_spec, client.contract.model_name, client.version)
    request.model_spec.signature_name = signature.name
    return encode_request(request, signature.input_name, images)


class Prediction(NamedTuple):
    """Hold the scores that a model gave, and its version."""

    scores: np.ndarray  # float32 of shape (N, labels)
    version: int  # of the model


def call_predict(
    client: ModelClient, signature: Signature, images: np.ndarray, *, timeout: float
) -> Prediction:
    """Return the scores of one signature for images of its size and dtype.

    Raises grpc.RpcError: DEADLINE_EXCEEDED after `timeout` seconds, or what the server answers.
    """
    call = client.channel().unary_unary(
        PREDICT, response_deserializer=predict_pb2.PredictResponse.FromString
    )
    request = build_request(client, signature, images)
    response = call(request, timeout=timeout)
    scores = read_tensor(response.outputs[signature.output_name])
    return Prediction(scores, response.model_spec.version.value)


def check_answer(prediction: Prediction, pictures: int, labels: int) -> Prediction:
    """Return `prediction` if each picture has one finite score for each label.

    Raises ModelMismatchError otherwise.
    """
    scores = prediction.scores
    if scores.shape != (pictures, labels) or not np.isfinite(scores).all():
        raise ModelMismatchError(f"the model's answer is not {pictures} x {labels} numbers")
    return prediction


def predict(client: ModelClient, pixels: np.ndarray, *, timeout: float) -> Prediction:
    """Return the scores for pixels of shape (N, height, width, colours), from 0 to 255.

    All calls share `timeout`, in seconds. Raises grpc.RpcError, DeadlineError, ModelMismatchError.
    """
    deadline = Deadline.after(timeout)
    signatures = client.signatures or describe(client, timeout=timeout)
    for signature in signatures:
        images = pixels
        if signature.input_dtype == np.float32:
            images = scale(pixels, client.contract.preprocessing)
        try:
            answer = call_predict(client, signature, images, timeout=deadline.remaining())
            answer = answer._replace(scores=client.contract.score_each(answer.scores))
            return check_answer(answer, len(pixels), len(client.contract.labels))
        except grpc.RpcError as error:
            if error.code() in REFUSED:
                client.signatures = ()  # the server may have a new model
            if error.code() not in REFUSED or signature is signatures[-1]:
                raise
