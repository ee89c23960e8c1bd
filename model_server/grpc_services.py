"""The gRPC port: PredictionService, ModelService, health checks and reflection."""

import contextlib
import functools
import importlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigResponse

from model_server import errors, monitoring
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
) -> tuple[grpc.Server, int]:
    """Return a server bound to an address, not yet started, and its port.

    With a `socket_path`, it listens on that Unix socket too. Raises RuntimeError when an address
    cannot be bound.
    """
    options = {
        "grpc.max_receive_message_length": LARGEST_MESSAGE,
        "grpc.max_send_message_length": LARGEST_MESSAGE,
        "grpc.so_reuseport": 0,  # a second server on the same port is an error
        # How long a client may take to answer a ping. Without this, the end of the server waits
        # 20 s for a client that has vanished.
        "grpc.http2.ping_timeout_ms": 3000,
        **(channel_arguments or {}),
    }
    workers = ThreadPoolExecutor(max_threads or 4 * (os.cpu_count() or 1), "grpc")
    server = grpc.server(workers, options=list(options.items()))
    services = ModelServer(repository)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    if health_checks:
        healthy = Health(experimental_non_blocking=False)
        healthy.set("", health_pb2.HealthCheckResponse.SERVING)  # "" is the server as a whole
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    _enable_reflection(server)
    if socket_path:
        server.add_insecure_port(f"unix:{socket_path}")
    return server, server.add_insecure_port(address)


def _enable_reflection(server: grpc.Server) -> None:
    """Let tools such as grpcurl ask which services there are.

    The modules describe the services, and then fail on an attribute that today's protobuf lacks.
    """
    for module in ("prediction_service_pb2", "model_service_pb2"):
        with contextlib.suppress(AttributeError):
            importlib.import_module(f"tensorflow_serving.apis.{module}")
    services = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"
    names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _with_status(method: Callable) -> Callable:
    """Let the code and message of an error that a method raises become the call's status."""

    @functools.wraps(method)
    def answer(self, request, context):
        try:
            return method(self, request, context)
        except tf.errors.OpError as error:
            context.abort(_CODES[error.error_code], error.message[:LONGEST_DETAILS])

    return answer


class Health(health.HealthServicer):
    """grpc.health.v1.Health, with its own thread: a busy server is healthy, too."""

    def Check(self, request, context):
        """Return whether the server as a whole answers."""
        return super().Check(request, context)

    Check.experimental_thread_pool = ThreadPoolExecutor(1, "health")

    def Watch(self, request, context):
        """Refuse: an open call would delay the server's end. Clients take it for healthy then."""
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "use Check")


class ModelServer(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """tensorflow.serving.PredictionService and tensorflow.serving.ModelService."""

    def __init__(self, repository: Repository):
        self._repository = repository

    @_with_status
    def Predict(self, request, context):
        """Run a signature on the request's inputs, while the caller waits."""
        spec = request.model_spec
        with (
            monitoring.request(spec.name, "Predict", "GRPC"),
            self._repository.lease(spec) as (version, servable),
        ):
            time_left = context.time_remaining()
            response = servable.predict(request, time_left, lambda: not context.is_active())
        response.model_spec.version.value = version
        return response

    @_with_status
    def GetModelMetadata(self, request, context):
        """Return the signatures of a version, as its model has them."""
        if list(request.metadata_field) != ["signature_def"]:
            raise errors.InvalidArgument(
                f'metadata_field is {list(request.metadata_field)}; supported: ["signature_def"]'
            )
        response = GetModelMetadataResponse()
        with self._repository.lease(request.model_spec) as (version, servable):
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = version
            response.metadata["signature_def"].Pack(servable.signatures)
        return response

    @_with_status
    def GetModelStatus(self, request, context):
        """Return the state of every version of a model, or of the one asked for."""
        return self._repository.status(request.model_spec)

    @_with_status
    def HandleReloadConfigRequest(self, request, context):
        """Serve what a configuration lists and nothing else; return when new models are ready."""
        added = self._repository.reload(request.config, from_caller=True)
        self._repository.wait_until_available(added, give_up=lambda: not context.is_active())
        response = ReloadConfigResponse()
        response.status.SetInParent()  # OK is sent, not left out
        return response
