"""The errors a request or a version can end with: TensorFlow's, whose codes are gRPC's."""

from functools import partial

import tensorflow as tf
from tensorflow_serving.apis.status_pb2 import StatusProto

# Each takes the message alone.
InvalidArgument = partial(tf.errors.InvalidArgumentError, None, None)
NotFound = partial(tf.errors.NotFoundError, None, None)
FailedPrecondition = partial(tf.errors.FailedPreconditionError, None, None)
Internal = partial(tf.errors.InternalError, None, None)
DeadlineExceeded = partial(tf.errors.DeadlineExceededError, None, None)
ResourceExhausted = partial(tf.errors.ResourceExhaustedError, None, None)
Unimplemented = partial(tf.errors.UnimplementedError, None, None)
DataLoss = partial(tf.errors.DataLossError, None, None)
Unknown = partial(tf.errors.UnknownError, None, None)

_NAMES = StatusProto.DESCRIPTOR.fields_by_name["error_code"].enum_type.values_by_number


def text(error: tf.errors.OpError) -> str:
    """Return an error in one line: "NOT_FOUND: …"."""
    return f"{_NAMES[error.error_code].name}: {' '.join(error.message.split())}"
