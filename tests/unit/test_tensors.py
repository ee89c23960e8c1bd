"""gateway/tensors: what is written without protobuf's help is what protobuf reads."""

import numpy as np
import pytest
from google.protobuf import wrappers_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

from gateway.tensors import encode_request, read_tensor, varint


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 6, 3), (0, 3), ()])
def test_encoded_tensor_is_read_back_the_same(shape, dtype):
    array = (255 * np.random.default_rng(1).random(shape)).astype(dtype)
    request = predict_pb2.PredictRequest(output_filter=["kinds"])
    encoded = encode_request(request, "ph\u00f6to", array)
    sent = predict_pb2.PredictRequest.FromString(encoded)
    [(name, tensor)] = sent.inputs.items()
    assert (name, sent.output_filter) == ("ph\u00f6to", ["kinds"])
    np.testing.assert_array_equal(read_tensor(tensor), array)
    assert len(tensor.tensor_content) == array.nbytes


def test_encode_request_takes_an_array_that_does_not_lie_in_order():
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4).transpose(2, 0, 1)[::2]
    encoded = encode_request(predict_pb2.PredictRequest(), "photo", array)
    sent = predict_pb2.PredictRequest.FromString(encoded).inputs["photo"]
    np.testing.assert_array_equal(read_tensor(sent), array)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**31 - 1, 2**63])
def test_varint_writes_as_protobuf_does(number):
    reference = wrappers_pb2.UInt64Value(value=number).SerializeToString()
    assert varint(number) == (reference[1:] or b"\0")


def test_read_tensor_reads_typed_fields_too():
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2, 3])
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_shape.dim.add(size=3)
    np.testing.assert_array_equal(read_tensor(tensor), [[1, 2, 3]])
