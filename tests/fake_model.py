"""A model server without TensorFlow: the gRPC of the real one, with a model of one line.

    python -m tests.fake_model --port=8500 --side=299

runs it in a separate process, to be killed or frozen. It listens when it has read a line from its
standard input, and ends when that does.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataResponse, SignatureDefMap
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from gateway.tensors import describe_array, read_tensor

LABELS = ("red", "green", "blue")
CONTRACT = {
    "model_name": "fake",
    "signature_name": "serving_default",
    "preprocessing": "none",
    "labels": list(LABELS),
    "scores": "logits",
}
AT_ONCE = 4  # calls that are answered at the same time


def signature(
    *,
    inputs: dict[str, tuple[int, ...]] | None = None,
    outputs: dict[str, tuple[int, ...]] | None = None,
    dtype: int = types_pb2.DT_FLOAT,
    output_dtype: int = types_pb2.DT_FLOAT,
) -> SignatureDef:
    """A signature with the given shapes; by default 4x6 pictures to 3 scores."""

    def infos(shapes: dict[str, tuple[int, ...]], dtype: int) -> dict[str, TensorInfo]:
        dims = {name: [{"size": size} for size in shape] for name, shape in shapes.items()}
        return {name: TensorInfo(dtype=dtype, tensor_shape={"dim": dims[name]}) for name in dims}

    inputs, outputs = inputs or {"photo": (-1, 4, 6, 3)}, outputs or {"kinds": (-1, 3)}
    return SignatureDef(inputs=infos(inputs, dtype), outputs=infos(outputs, output_dtype))


class FakeModel(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Scores a picture by its mean colours; fails with `failure` if it is set."""

    def __init__(self, side: int | None = None, delay: float = 0) -> None:
        self.failure: grpc.StatusCode | None = None
        self.refusals = 0  # how many predictions are refused as UNAVAILABLE before the next answer
        self.definition = signature(inputs={"photo": (-1, side, side, 3)} if side else None)
        self.takes_bytes = True  # whether it has a signature for pixels of uint8, too
        self.delay = delay  # seconds that a prediction takes
        self.metadata_delay = 0.0  # seconds that a description takes
        self.requests: deque[PredictRequest] = deque(maxlen=100)
        self.metadata: dict[str, str] = {}  # that came with the last prediction

    def GetModelMetadata(self, request, context):
        self._fail(context)
        time.sleep(self.metadata_delay)
        described = SignatureDefMap()
        described.signature_def["serving_default"].CopyFrom(self.definition)
        if self.takes_bytes:
            described.signature_def["serving_uint8"].CopyFrom(self.definition)
            for info in described.signature_def["serving_uint8"].inputs.values():
                info.dtype = types_pb2.DT_UINT8
        answer = GetModelMetadataResponse()
        answer.metadata["signature_def"].Pack(described)
        return answer

    def Predict(self, request, context):
        self._fail(context)
        if self.refusals:
            self.refusals -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "told to refuse")
        name = request.model_spec.signature_name
        if name == "serving_uint8" and not self.takes_bytes:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"no signature {name}")
        if "photo" not in request.inputs:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no input {list(request.inputs)}")
        wanted = types_pb2.DT_UINT8 if name == "serving_uint8" else types_pb2.DT_FLOAT
        if request.inputs["photo"].dtype != wanted:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "numbers of another type")
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        time.sleep(self.delay)
        pictures = read_tensor(request.inputs["photo"])
        answer = PredictResponse(model_spec=request.model_spec)
        answer.model_spec.version.value = request.model_spec.version.value or 1
        kinds = np.mean(pictures, (1, 2), np.float32)
        answer.outputs["kinds"].CopyFrom(describe_array(kinds))
        answer.outputs["kinds"].tensor_content = kinds.tobytes()
        return answer

    def _fail(self, context) -> None:
        if self.failure is not None:
            context.abort(self.failure, "told to fail")


@contextmanager
def serve(model: FakeModel, port: int = 0) -> Iterator[str]:
    """Serve the model on a port, by default a free one; yields its address."""
    server = grpc.server(ThreadPoolExecutor(AT_ONCE))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(model, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--side", type=int, help="height and width of its pictures, in pixels")
    parser.add_argument("--delay", type=float, default=0, help="seconds a prediction takes")
    arguments = parser.parse_args()
    sys.stdin.readline()
    with serve(FakeModel(arguments.side, arguments.delay), arguments.port):
        sys.stdin.read()
