"""Convert between arrays and protobuf tensors without extra copies."""

import numpy as np
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2

DTYPES = {types_pb2.DT_FLOAT: np.dtype("<f4"), types_pb2.DT_UINT8: np.dtype("u1")}  # of pictures


def describe_array(array: np.ndarray) -> tensor_pb2.TensorProto:
    """Return a tensor with an array's shape, and its dtype if uint8, else float32; no numbers."""
    dtype = types_pb2.DT_UINT8 if array.dtype == np.uint8 else types_pb2.DT_FLOAT
    tensor = tensor_pb2.TensorProto(dtype=dtype)
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def read_tensor(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Return the array in a protobuf tensor: float32 or uint8."""
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, DTYPES[tensor.dtype]).reshape(shape)
    return np.array(tensor.float_val, np.float32).reshape(shape)


def varint(number: int) -> bytes:
    """Write a number in protobuf's wire format: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)  # the eighth bit says that more bytes follow
        number >>= 7
    return bytes((*written, number))


def field(number: int, *parts: bytes | np.ndarray) -> tuple[bytes | np.ndarray, ...]:
    """Return the pieces of a field in protobuf's wire format; arrays are uint8 of shape (n,)."""
    return varint(number << 3 | 2), varint(sum(map(len, parts))), *parts


def encode_request(
    request: predict_pb2.PredictRequest, input_name: str, array: np.ndarray
) -> bytes:
    """Return the bytes of a request to which an array, of any shape, is added as an input.

    `join` makes the only copy of the array; `request.inputs[…].CopyFrom(…)` would make three.
    """
    described = describe_array(array)
    numbers = np.ascontiguousarray(array, DTYPES[described.dtype]).reshape(-1).view(np.uint8)
    content = field(described.TENSOR_CONTENT_FIELD_NUMBER, numbers)
    entry = field(1, input_name.encode()) + field(2, described.SerializeToString(), *content)
    return b"".join((request.SerializeToString(), *field(request.INPUTS_FIELD_NUMBER, *entry)))
