"""The errors a request or a version can end with: TensorFlow's, whose codes are gRPC's."""

from functools import partial

import tensorflow as tf

# Each takes the message alone.
InvalidArgument = partial(tf.errors.InvalidArgumentError, None, None)
NotFound = partial(tf.errors.NotFoundError, None, None)
FailedPrecondition = partial(tf.errors.FailedPreconditionError, None, None)
Cancelled = partial(tf.errors.CancelledError, None, None)
Internal = partial(tf.errors.InternalError, None, None)
DeadlineExceeded = partial(tf.errors.DeadlineExceededError, None, None)
Unavailable = partial(tf.errors.UnavailableError, None, None)
Unimplemented = partial(tf.errors.UnimplementedError, None, None)
Unknown = partial(tf.errors.UnknownError, None, None)
