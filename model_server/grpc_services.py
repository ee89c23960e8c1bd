"""The gRPC face: PredictionService and ModelService over a repository of models."""

import functools
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
)
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
)
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from model_server import errors
from model_server.versions import Repository

LARGEST_MESSAGE = 2**31 - 1  # bytes
LONGEST_DETAILS = 1024  # characters of an error message; gRPC sends it as a header

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def create_server(
    repository: Repository,
    address: str,
    *,
    max_threads: int | None = None,
    channel_arguments: Mapping[str, int | str] | None = None,
) -> tuple[grpc.Server, int]:
    """Return a server bound to an address, not yet started, and its port.

    Raises RuntimeError when the address cannot be bound.
    """
    options = {
        "grpc.max_receive_message_length": LARGEST_MESSAGE,
        "grpc.max_send_message_length": LARGEST_MESSAGE,
        "grpc.so_reuseport": 0,  # a second server on the same port is an error, not a half of it
        **(channel_arguments or {}),
    }
    workers = ThreadPoolExecutor(max_threads or 4 * (os.cpu_count() or 1), "grpc")
    server = grpc.server(workers, options=list(options.items()))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(repository), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(repository), server)
    return server, server.add_insecure_port(address)


def _with_status(method: Callable) -> Callable:
    """Wrap a service's method: an error's code and message become the call's status."""

    @functools.wraps(method)
    def answer(service, request, context: grpc.ServicerContext):
        try:
            if not request.HasField("model_spec"):
                raise errors.InvalidArgument("Missing ModelSpec")
            return method(service, request, context)
        except tf.errors.OpError as error:
            code, details = _CODES[error.error_code], error.message
        if len(details) > LONGEST_DETAILS:
            details = details[:LONGEST_DETAILS] + "...TRUNCATED"
        context.abort(code, details)

    return answer


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """tensorflow.serving.PredictionService: Predict and GetModelMetadata."""

    def __init__(self, repository: Repository):
        """Answer for the models of a repository."""
        self._repository = repository

    @_with_status
    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """Run a signature on the request's inputs, until the caller's deadline."""
        with self._repository.lease(request.model_spec) as (version, model):
            response = model.predict(request, timeout=context.time_remaining())
        response.model_spec.version.value = version
        return response

    @_with_status
    def GetModelMetadata(
        self, request: GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        """Return the signatures of a version, as its SavedModel has them."""
        if not request.metadata_field:
            raise errors.InvalidArgument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != "signature_def":
                raise errors.InvalidArgument(f"Metadata field {field} is not supported")
        response = GetModelMetadataResponse()
        with self._repository.lease(request.model_spec) as (version, model):
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version
            response.metadata["signature_def"].Pack(model.signatures)
        return response


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """tensorflow.serving.ModelService: GetModelStatus."""

    def __init__(self, repository: Repository):
        """Answer for the models of a repository."""
        self._repository = repository

    @_with_status
    def GetModelStatus(
        self, request: GetModelStatusRequest, context: grpc.ServicerContext
    ) -> GetModelStatusResponse:
        """Return the state of every version of a model, or of the one asked for."""
        response = GetModelStatusResponse()
        for version, state, error in self._repository.statuses(request.model_spec):
            status = response.model_version_status.add(version=version, state=state)
            status.status.SetInParent()  # OK is said, not left out
            if error:
                status.status.error_code = error.error_code
                status.status.error_message = error.message
        return response
