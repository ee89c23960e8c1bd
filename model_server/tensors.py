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
    return np.asarray(tensor.numpy(), dtype=dtype.as_numpy_dtype)


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
    getattr(proto, field).extend((values if view is None else values.view(view)).tolist())
