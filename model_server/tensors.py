"""Convert TensorProto messages to NumPy arrays and back."""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.python.framework.tensor_util import GetNumpyAppendFn

from model_server import errors


def read(proto: TensorProto) -> np.ndarray:
    """Return the array in a message; it may be read-only. Strings are an object array of bytes.

    A few bytes can declare any shape. So nothing is allocated that the message does not contain.

    Raises:
        ValueError: The dtype is unknown, or shape and content do not match.
    """
    shape = [dim.size for dim in proto.tensor_shape.dim]
    if min(shape, default=0) < 0:
        raise ValueError(f"shape {shape} has a negative size")
    try:
        dtype = tf.as_dtype(proto.dtype)
        content = proto.tensor_content  # every access copies the bytes, so read it once
        if content and dtype != tf.string:
            return np.frombuffer(content, dtype.as_numpy_dtype).reshape(shape)
        values = sum(len(v) for field, v in proto.ListFields() if field.name.endswith("_val"))
        if math.prod(shape) > values:
            raise ValueError(f"shape {shape} needs {math.prod(shape)} values, not {values}")
        return tf.make_ndarray(proto)
    except (TypeError, KeyError, OverflowError) as error:
        raise ValueError(f"dtype {proto.dtype} or its values cannot be read: {error}") from error


def write(array: np.ndarray) -> TensorProto:
    """Return a message with the array in the field of its dtype, such as `float_val`.

    That is the field that TensorFlow Serving fills and that clients read. tf.make_tensor_proto
    would fill `tensor_content`. Raises tf.errors.UnimplementedError where there is no such field.
    """
    append = GetNumpyAppendFn(array.dtype)
    if append is None:
        raise errors.Unimplemented(f"an output of dtype {array.dtype} cannot be sent")
    proto = TensorProto(
        dtype=tf.as_dtype(array.dtype).as_datatype_enum,
        tensor_shape=tf.TensorShape(array.shape).as_proto(),
    )
    append(proto, array.ravel())
    return proto
