"""TensorProto to NumPy array and back, with TensorFlow Serving's choice of fields."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from model_server import errors

# No tensor is larger than the largest message gRPC carries. A few bytes can claim any shape, and
# TensorFlow would fill it: this bound is what a hostile shape runs into.
LARGEST = 2**31 - 1
_STRING = 24  # bytes of an empty string in TensorFlow's memory

_kinds = tf.dtypes.experimental
_NARROW = (_kinds.int2, _kinds.int4, _kinds.uint2, _kinds.uint4)  # each in a byte of its own
_FLOAT8 = (_kinds.float8_e5m2, _kinds.float8_e4m3fn, _kinds.float8_e4m3fnuz,
               _kinds.float8_e4m3b11fnuz, _kinds.float8_e5m2fnuz)  # fmt: skip

# Each dtype's field in TensorProto and, where the field stores something else, the view to take.
_FIELDS = {
    tf.float32: ("float_val", None),
    tf.float64: ("double_val", None),
    tf.float16: ("half_val", np.uint16),
    tf.bfloat16: ("half_val", np.uint16),
    tf.int8: ("int_val", None),
    tf.int16: ("int_val", None),
    tf.int32: ("int_val", None),
    tf.uint8: ("int_val", None),
    tf.uint16: ("int_val", None),
    tf.int64: ("int64_val", None),
    tf.uint32: ("uint32_val", None),
    tf.uint64: ("uint64_val", None),
    tf.bool: ("bool_val", None),
    tf.complex64: ("scomplex_val", np.float32),
    tf.complex128: ("dcomplex_val", np.float64),
    tf.string: ("string_val", None),
    tf.qint8: ("int_val", np.int8),
    tf.quint8: ("int_val", np.uint8),
    tf.qint16: ("int_val", np.int16),
    tf.quint16: ("int_val", np.uint16),
    tf.qint32: ("int_val", np.int32),
    **dict.fromkeys(_NARROW, ("int_val", None)),
    **dict.fromkeys(_FLOAT8, ("float8_val", None)),  # the one field that is bytes, not numbers
}
_DTYPES = {dtype.as_datatype_enum: dtype for dtype in _FIELDS}


def read(proto: TensorProto) -> np.ndarray:
    """Return the array a TensorProto describes; it may be read-only and share the message's bytes.

    Strings come as an object array of bytes. Raises ValueError when the message is no valid tensor:
    a dtype that cannot be sent, a shape that is none, content of another size than the shape's.
    """
    dtype = _DTYPES.get(proto.dtype)
    if dtype is None:
        raise ValueError(f"dtype {proto.dtype} cannot be sent")
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} has a negative size")
    nbytes = math.prod(shape) * (_STRING if dtype == tf.string else dtype.size)
    if nbytes > LARGEST:
        raise ValueError(f"shape {shape} is too large")

    content = proto.tensor_content  # read once: every access copies it
    if content and dtype != tf.string:
        if len(content) != nbytes:
            raise ValueError(f"shape {shape} needs {nbytes} bytes, not {len(content)}")
        return np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape)

    # The typed fields have rules of their own (too few values: the last one is repeated; none:
    # zeros). TensorFlow's parser knows them all.
    try:
        tensor = tf.io.parse_tensor(proto.SerializeToString(), dtype)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError("no valid TensorProto") from error
    return as_array(tensor.numpy(), dtype)


def write(array: np.ndarray, proto: TensorProto) -> None:
    """Fill an empty TensorProto with an array, in the typed field of its dtype (float_val, ...).

    Raises tf.errors.UnimplementedError for a dtype that has no such field.
    """
    dtype = tf.as_dtype(array.dtype)
    if dtype not in _FIELDS:
        raise errors.Unimplemented(f"Cannot answer with a {dtype.name} tensor")
    field, view = _FIELDS[dtype]
    proto.dtype = dtype.as_datatype_enum
    proto.tensor_shape.SetInParent()  # a scalar's is said, not left out
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    values = np.ascontiguousarray(array).ravel()
    if dtype in _FLOAT8:
        proto.float8_val = values.tobytes()
        return
    if dtype in _NARROW:
        values = values.astype(np.int8)
    getattr(proto, field).extend((values if view is None else values.view(view)).tolist())


def as_array(value: object, dtype: tf.DType) -> np.ndarray:
    """Return what TensorFlow gives for a tensor as an array that knows its dtype.

    A scalar comes bare, and a quantized tensor as the integers it is made of.
    """
    if dtype.is_quantized:
        value = np.asarray(value).view(dtype.as_numpy_dtype)
    return np.asarray(value, dtype=dtype.as_numpy_dtype)
