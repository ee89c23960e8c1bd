"""The warm-up file of a SavedModel: requests that are run before its version is served."""

import logging
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server import errors
from model_server.servable import Servable

_log = logging.getLogger(__name__)


def read(path: Path) -> list[PredictRequest]:
    """Return the requests in assets.extra/tf_serving_warmup_requests of a SavedModel, if any.

    Records of another kind than predict_log are skipped. Raises tf.errors.OpError when the file is
    damaged.
    """
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not file.exists():
        return []
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    try:
        logs = [PredictionLog.FromString(record) for record in records]
    except (DecodeError, tf.errors.DataLossError) as error:
        raise errors.InvalidArgument(
            f"{file} is damaged, or is no TFRecord file of PredictionLogs: {error}"
        ) from error
    requests = [entry.predict_log.request for entry in logs if entry.HasField("predict_log")]
    if len(requests) < len(logs):
        _log.warning("%s: only its predict_log records are run", file)
    return requests


def replay(model: Servable, path: Path) -> int:
    """Run the requests that `read` returns; return how many. Raises tf.errors.OpError."""
    requests = read(path)
    for request in requests:
        model.predict(request)
    return len(requests)
