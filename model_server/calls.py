"""What can be asked of the server, whichever face it is asked through: gRPC or REST."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
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
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionRequest, RegressionResponse

from model_server import errors, monitoring
from model_server.repository import Repository
from model_server.runtime import inference
from model_server.runtime.servable import DEFAULT_SIGNATURE, Servable


class Calls:
    """The calls of PredictionService and ModelService, over a repository of models.

    Each raises tf.errors.OpError, and takes the seconds it may last where it runs a model.
    """

    def __init__(self, repository: Repository):
        """Answer for the models of a repository."""
        self._repository = repository

    def predict(self, request: PredictRequest, timeout: float = math.inf) -> PredictResponse:
        """Run a signature on the request's inputs."""
        _require_spec(request)
        with self._running(request.model_spec, "Predict") as (version, model):
            response = model.predict(request, timeout)
        response.model_spec.version.value = version
        return response

    def classify(
        self, request: ClassificationRequest, timeout: float = math.inf
    ) -> ClassificationResponse:
        """Run a classification signature on the request's examples."""
        _require_spec(request)
        with self._running(request.model_spec, "Classify") as (version, model):
            response = inference.classify(model, request, timeout)
        monitoring.examples(request.model_spec.name, len(response.result.classifications))
        response.model_spec.version.value = version
        return response

    def regress(self, request: RegressionRequest, timeout: float = math.inf) -> RegressionResponse:
        """Run a regression signature on the request's examples."""
        _require_spec(request)
        with self._running(request.model_spec, "Regress") as (version, model):
            response = inference.regress(model, request, timeout)
        monitoring.examples(request.model_spec.name, len(response.result.regressions))
        response.model_spec.version.value = version
        return response

    def multi_inference(
        self, request: MultiInferenceRequest, timeout: float = math.inf
    ) -> MultiInferenceResponse:
        """Run several signatures on the same examples; the first task names model and version."""
        spec = request.tasks[0].model_spec if request.tasks else ModelSpec()
        with self._running(spec, "MultiInference") as (version, model):
            response = inference.multi_inference(model, request, timeout)
        for result in response.results:
            result.model_spec.version.value = version
        return response

    def metadata(self, request: GetModelMetadataRequest) -> GetModelMetadataResponse:
        """Return the signatures of a version, as its model has them."""
        _require_spec(request)
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

    def status(self, request: GetModelStatusRequest) -> GetModelStatusResponse:
        """Return the state of every version of a model, or of the one asked for."""
        _require_spec(request)
        response = GetModelStatusResponse()
        for version, state, error in self._repository.statuses(request.model_spec):
            status = response.model_version_status.add(version=version, state=state)
            status.status.SetInParent()  # OK is said, not left out
            if error:
                status.status.error_code = error.error_code
                status.status.error_message = error.message
        return response

    def reload(
        self,
        request: ReloadConfigRequest,
        timeout: float = math.inf,
        give_up: Callable[[], bool] = lambda: False,
    ) -> ReloadConfigResponse:
        """Serve what a configuration lists and nothing else; return when new models are ready."""
        if not request.config.HasField("model_config_list"):
            raise errors.InvalidArgument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        added = self._repository.reload(request.config)
        self._repository.wait_until_available(added, timeout=timeout, give_up=give_up)
        response = ReloadConfigResponse()
        response.status.SetInParent()  # OK is said, not left out
        return response

    def signature_inputs(self, spec: ModelSpec) -> Mapping[str, TensorInfo]:
        """Return the inputs of the signature that a ModelSpec names."""
        name = spec.signature_name or DEFAULT_SIGNATURE
        with self._repository.lease(spec) as (_, model):
            if name not in model.signatures.signature_def:
                raise errors.InvalidArgument(
                    f'Serving signature name: "{name}" not found in signature def'
                )
            return model.signatures.signature_def[name].inputs

    @contextmanager
    def _running(self, spec: ModelSpec, api: str) -> Iterator[tuple[int, Servable]]:
        """Lend the model that a request names, with its version; measure how long it is at work."""
        with self._repository.lease(spec) as lent, monitoring.runtime(spec.name, api):
            yield lent


def _require_spec(request) -> None:
    if not request.HasField("model_spec"):
        raise errors.InvalidArgument("Missing ModelSpec")
