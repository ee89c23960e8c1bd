"""A model server without TensorFlow: the gRPC of the real one, with a model of one line."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from gateway.model_client import read_tensor, write_tensor

LABELS = ("red", "green", "blue")


def signature(
    *,
    inputs: dict[str, tuple[int, ...]] | None = None,
    outputs: dict[str, tuple[int, ...]] | None = None,
    dtype: int = types_pb2.DT_FLOAT,
) -> SignatureDef:
    """A signature with the given shapes; by default 4x6 pictures to 3 scores."""
    definition = SignatureDef()
    for infos, shapes in (
        (definition.inputs, inputs or {"photo": (-1, 4, 6, 3)}),
        (definition.outputs, outputs or {"kinds": (-1, 3)}),
    ):
        for name, shape in shapes.items():
            infos[name].dtype = dtype
            for size in shape:
                infos[name].tensor_shape.dim.add(size=size)
    return definition


class FakeModel(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Scores a picture by the mean of its colours; fails with `failure` when that is set."""

    def __init__(self) -> None:
        self.failure: grpc.StatusCode | None = None
        self.definition = signature()
        self.requests: list[predict_pb2.PredictRequest] = []

    def GetModelMetadata(self, request, context):
        self._fail(context)
        described = get_model_metadata_pb2.SignatureDefMap()
        described.signature_def["serving_default"].CopyFrom(self.definition)
        answer = get_model_metadata_pb2.GetModelMetadataResponse()
        answer.metadata["signature_def"].Pack(described)
        return answer

    def Predict(self, request, context):
        self._fail(context)
        self.requests.append(request)
        pictures = read_tensor(request.inputs["photo"])
        answer = predict_pb2.PredictResponse()
        write_tensor(np.mean(pictures, axis=(1, 2)), answer.outputs["kinds"])
        return answer

    def _fail(self, context) -> None:
        if self.failure is not None:
            context.abort(self.failure, "told to fail")


@contextmanager
def serve(model: FakeModel) -> Iterator[str]:
    """Serve the model on a free port; yields its address."""
    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(model, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
