"""Arrays as protobuf tensors, copied as seldom as can be.

Exported from notebooks/03-tf-serving-connect.ipynb: change the notebook, then run `make export`.
"""

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

DTYPES = {types_pb2.DT_FLOAT: np.dtype("<f4"), types_pb2.DT_UINT8: np.dtype("u1")}  # of pictures


def describe_array(array: np.ndarray) -> tensor_pb2.TensorProto:
    """A protobuf tensor for an array, its numbers yet to come: uint8, any other kind as float32."""
    dtype = types_pb2.DT_UINT8 if array.dtype == np.uint8 else types_pb2.DT_FLOAT
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def read_tensor(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """The array in a protobuf tensor: float32, or uint8."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, DTYPES[tensor.dtype]).reshape(shape)
    return np.array(tensor.float_val, np.float32).reshape(shape)


def varint(number: int) -> bytes:
    """A number in protobuf's wire format: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)  # the eighth bit: there is more
        number >>= 7
    return bytes((*written, number))


def field(number: int, *parts: bytes | np.ndarray) -> tuple[bytes | np.ndarray, ...]:
    """A field in protobuf's wire format, yet to be joined; arrays are of bytes, shape (n,)."""
    return varint(number << 3 | 2), varint(sum(map(len, parts))), *parts


def encode_request(
    request: predict_pb2.PredictRequest, input_name: str, array: np.ndarray
) -> bytes:
    """A request with an array of any shape as one more input, as it goes over the wire."""
    described = describe_array(array)
    numbers = np.ascontiguousarray(array, DTYPES[described.dtype]).reshape(-1).view(np.uint8)
    content = field(described.TENSOR_CONTENT_FIELD_NUMBER, numbers)
    entry = field(1, input_name.encode()) + field(2, described.SerializeToString(), *content)
    return b"".join((request.SerializeToString(), *field(request.INPUTS_FIELD_NUMBER, *entry)))
