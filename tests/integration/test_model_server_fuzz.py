"""Whatever arrives, the server answers with a status, and answers the next good request."""

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from model_server.config import BatchingParameters
from tests import saved_models
from tests.serving import SECONDS, load, model_spec, predict_request, serving

PREDICTION = "/tensorflow.serving.PredictionService"
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


def status_of(client, method, message):
    """Send bytes to a method; return the status, and check that the server goes on."""
    code = client.channel.unary_unary(method).future(message, timeout=SECONDS).code()
    assert code not in SERVERS_FAULT
    answer = client.predict(predict_request({"x": np.float32([[1, 2, 3]])}))
    assert list(answer.outputs["scaled"].float_val) == [2, 4, 6]
    return code


NUMBERS = st.integers(0, 2**31 - 1)
VALUES = {  # by field of a TensorProto
    **dict.fromkeys(("half_val", "int_val", "int64_val", "uint32_val", "uint64_val"), NUMBERS),
    **dict.fromkeys(
        ("float_val", "double_val", "scomplex_val", "dcomplex_val"), st.floats(width=32)
    ),
    "bool_val": st.booleans(),
    "string_val": st.binary(max_size=5),
}
SIZES = st.one_of(st.integers(0, 4), st.sampled_from([-1, -(2**63), 2**31, 2**40, 2**63 - 1]))


@st.composite
def tensors(draw):
    """Build a TensorProto of any dtype, shape and content; few of them are valid."""
    dims = [{"size": size} for size in draw(st.lists(SIZES, max_size=4))]
    field = draw(st.sampled_from(sorted(VALUES)))
    return TensorProto(
        dtype=draw(st.integers(0, 130)),
        version_number=draw(st.integers(0, 2)),
        tensor_shape={"dim": dims, "unknown_rank": draw(st.integers(0, 9)) == 9},
        tensor_content=draw(st.one_of(st.just(b""), st.binary(max_size=64))),
        **{field: draw(st.lists(VALUES[field], max_size=12))},
    )


NAMES = st.sampled_from(["x", "text", "value", "y", "", "x:0", "serving_default_x:0"])
SIGNATURES = st.sampled_from(["", "serving_default", "words", "count", "no"])


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,  # the same examples in every run
)
@given(
    inputs=st.dictionaries(NAMES, tensors(), max_size=2),
    signature=SIGNATURES,
    outputs=st.lists(st.sampled_from(["scaled", "total", "no", ""]), max_size=2),
)
def test_requests_that_do_not_fit(client, inputs, signature, outputs):
    spec = model_spec(signature=signature)
    request = PredictRequest(model_spec=spec, inputs=inputs, output_filter=outputs)
    code = status_of(client, f"{PREDICTION}/Predict", request.SerializeToString())
    assert code != grpc.StatusCode.INTERNAL


def test_unknown_method_and_message(client):
    for method in ("No", "Classify", "Regress", "MultiInference"):
        code = status_of(client, f"{PREDICTION}/{method}", b"")
        assert code == grpc.StatusCode.UNIMPLEMENTED
    assert status_of(client, f"{PREDICTION}/Predict", b"\xff") == grpc.StatusCode.INTERNAL
