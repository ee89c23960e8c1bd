"""Whatever arrives, the server answers with a status, and answers the next good request."""

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server.config import BatchingParameters
from tests import saved_models
from tests.serving import SECONDS, fill_spec, load, predict_request, serving, status

quick = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same examples in every run
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
METHODS = [
    *(f"/tensorflow.serving.PredictionService/{name}" for name in ("Predict", "GetModelMetadata")),
    *(
        f"/tensorflow.serving.ModelService/{name}"
        for name in ("GetModelStatus", "HandleReloadConfigRequest")
    ),
]
SERVERS_FAULT = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.fixture(
    scope="module", params=[None, BatchingParameters(64, 100)], ids=["alone", "batched"]
)
def client(request, tmp_path_factory):
    """A server with the model `scale`, without and with batching."""
    base = tmp_path_factory.mktemp("served")
    saved_models.save_scale(base / "scale" / "1")
    with serving(base, "scale", load=lambda path: load(path, request.param)) as served:
        yield served.client


def assert_survived(client, code):
    assert code not in SERVERS_FAULT
    answer = client.predict(predict_request({"x": np.float32([[1, 2, 3]])}))
    assert list(answer.outputs["scaled"].float_val) == [2, 4, 6]


def raw(client, method, message):
    call = client.channel.unary_unary(method)
    return status(lambda: call(message, timeout=SECONDS))


def good_messages():
    metadata = GetModelMetadataRequest(metadata_field=["signature_def"])
    statuses = GetModelStatusRequest()
    for request in (metadata, statuses):
        fill_spec(request.model_spec, name="scale")
    words = predict_request({"text": [b"a", b"b"]}, signature="words")
    return [m.SerializeToString() for m in (predict_request(), words, metadata, statuses)]


@quick
@given(st.sampled_from(good_messages()), st.sampled_from(METHODS), st.data())
def test_damaged_messages(client, message, method, data):
    damaged = bytearray(message)
    for _ in range(data.draw(st.integers(0, 3), "bytes changed")):
        place = data.draw(st.integers(0, len(damaged) - 1), "place")
        damaged[place] = data.draw(st.integers(0, 255), "byte")
    del damaged[data.draw(st.integers(0, len(damaged)), "length") :]
    assert_survived(client, raw(client, method, bytes(damaged)))


FIELDS = [
    field
    for field in TensorProto.DESCRIPTOR.fields
    if field.name.endswith("_val") and field.label == field.LABEL_REPEATED
]
SIZES = st.one_of(st.integers(0, 4), st.sampled_from([-1, -(2**63), 2**31, 2**40, 2**63 - 1]))


@st.composite
def tensors(draw):
    """Build a TensorProto of any dtype, shape and content; few of them are valid."""
    proto = TensorProto(dtype=draw(st.integers(0, 130)), version_number=draw(st.integers(0, 2)))
    for size in draw(st.lists(SIZES, max_size=4)):
        proto.tensor_shape.dim.add(size=size)
    proto.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 9
    proto.tensor_content = draw(st.one_of(st.just(b""), st.binary(max_size=64)))
    field = draw(st.sampled_from(FIELDS))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        values = st.floats(width=32)
    elif field.cpp_type == field.CPPTYPE_BOOL:
        values = st.booleans()
    elif field.cpp_type == field.CPPTYPE_STRING:
        values = st.binary(max_size=5)
    elif field.cpp_type == field.CPPTYPE_MESSAGE:
        values = None
    else:
        values = st.integers(0, 2**31 - 1)
    if values is not None:
        getattr(proto, field.name).extend(draw(st.lists(values, max_size=12)))
    return proto


NAMES = st.sampled_from(["x", "text", "value", "y", "", "x:0", "serving_default_x:0"])
SIGNATURES = st.sampled_from(["", "serving_default", "words", "count", "no"])


@quick
@given(
    inputs=st.dictionaries(NAMES, tensors(), max_size=2),
    signature=SIGNATURES,
    outputs=st.lists(st.sampled_from(["scaled", "total", "no", ""]), max_size=2),
)
def test_requests_that_do_not_fit(client, inputs, signature, outputs):
    request = PredictRequest(output_filter=outputs)
    fill_spec(request.model_spec, name="scale", signature=signature)
    for name, proto in inputs.items():
        request.inputs[name].CopyFrom(proto)
    code = status(lambda: client.prediction.Predict(request, timeout=SECONDS))
    assert code != grpc.StatusCode.INTERNAL
    assert_survived(client, code)


def test_unknown_method_and_message(client):
    service = "/tensorflow.serving.PredictionService"
    for method in ("No", "Classify", "Regress", "MultiInference"):
        assert raw(client, f"{service}/{method}", b"") == grpc.StatusCode.UNIMPLEMENTED
    assert raw(client, f"{service}/Predict", b"\xff") == grpc.StatusCode.INTERNAL
    assert_survived(client, grpc.StatusCode.OK)
