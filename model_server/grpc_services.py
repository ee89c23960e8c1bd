"""The gRPC face: PredictionService, ModelService and the standard health service."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
)
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
)
from tensorflow_serving.apis.get_model_status_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
)
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse

from model_server import monitoring
from model_server.calls import Calls
from model_server.profiler import ProfilerService
from model_server.repository import Repository

LARGEST_MESSAGE = 2**31 - 1  # bytes
LONGEST_DETAILS = 1024  # characters of an error message; gRPC sends it as a header

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def create_server(
    repository: Repository,
    address: str,
    *,
    max_threads: int | None = None,
    channel_arguments: Mapping[str, int | str] | None = None,
    socket_path: str = "",
    health_checks: bool = True,
    profiler: bool = True,
) -> tuple[grpc.Server, int]:
    """Return a server bound to an address, not yet started, and its port.

    With a `socket_path`, it listens on that Unix socket too.

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
    calls = Calls(repository)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(calls), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(calls), server)
    if health_checks:
        healthy = health.HealthServicer()
        healthy.set("", health_pb2.HealthCheckResponse.SERVING)  # "" is the server as a whole
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    if profiler:
        server.add_generic_rpc_handlers([ProfilerService()])
    if socket_path:
        server.add_insecure_port(f"unix:{socket_path}")
    return server, server.add_insecure_port(address)


def _run(context: grpc.ServicerContext, api: str, call: Callable, request):
    """Return what a call that runs a model returns, within the caller's deadline; count it."""

    def counted():
        with monitoring.request(request.model_spec.name, api, "GRPC"):
            return call(request, context.time_remaining())

    return _answer(context, counted)


def _answer(context: grpc.ServicerContext, call: Callable, *arguments):
    """Return what a call returns; its error's code and message become the status."""
    try:
        return call(*arguments)
    except tf.errors.OpError as error:
        code, details = _CODES[error.error_code], error.message
    if len(details) > LONGEST_DETAILS:
        details = details[:LONGEST_DETAILS] + "...TRUNCATED"
    context.abort(code, details)


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """tensorflow.serving.PredictionService; a model runs until the caller's deadline."""

    def __init__(self, calls: Calls):
        """Pass requests on to `calls`."""
        self._calls = calls

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """Run a signature on the request's inputs."""
        return _run(context, "Predict", self._calls.predict, request)

    def Classify(
        self, request: ClassificationRequest, context: grpc.ServicerContext
    ) -> ClassificationResponse:
        """Run a classification signature on the request's examples."""
        return _run(context, "Classify", self._calls.classify, request)

    def Regress(
        self, request: RegressionRequest, context: grpc.ServicerContext
    ) -> RegressionResponse:
        """Run a regression signature on the request's examples."""
        return _run(context, "Regress", self._calls.regress, request)

    def MultiInference(
        self, request: MultiInferenceRequest, context: grpc.ServicerContext
    ) -> MultiInferenceResponse:
        """Run several signatures on the same examples."""
        return _answer(context, self._calls.multi_inference, request, context.time_remaining())

    def GetModelMetadata(
        self, request: GetModelMetadataRequest, context: grpc.ServicerContext
    ) -> GetModelMetadataResponse:
        """Return the signatures of a version."""
        return _answer(context, self._calls.metadata, request)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """tensorflow.serving.ModelService: what is served, and how to change it."""

    def __init__(self, calls: Calls):
        """Pass requests on to `calls`."""
        self._calls = calls

    def GetModelStatus(
        self, request: GetModelStatusRequest, context: grpc.ServicerContext
    ) -> GetModelStatusResponse:
        """Return the state of every version of a model, or of the one asked for."""
        return _answer(context, self._calls.status, request)

    def HandleReloadConfigRequest(
        self, request: ReloadConfigRequest, context: grpc.ServicerContext
    ) -> ReloadConfigResponse:
        """Serve other models, other versions, under other labels."""
        return _answer(
            context,
            self._calls.reload,
            request,
            context.time_remaining(),
            lambda: not context.is_active(),
        )
