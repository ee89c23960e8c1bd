"""The warm-up file of a SavedModel: requests that are run before its version is served."""

from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from model_server import errors, monitoring
from model_server.runtime import inference
from model_server.runtime.servable import Servable

LARGEST = 1000  # records; TensorFlow Serving takes no more either


def replay(model: Servable, path: Path, iterations: int = 1) -> int:
    """Run the requests in assets.extra/tf_serving_warmup_requests, if the SavedModel has that file.

    Each is run `iterations` times. Returns how many there are, 0 where none is run. Raises
    tf.errors.OpError when the file is damaged or a request fails.
    """
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    if not iterations or not file.exists():
        return 0
    with monitoring.warmup(path):
        return _replay(model, file, iterations)


def _replay(model: Servable, file: Path, iterations: int) -> int:
    number = 0
    try:
        for number, record in enumerate(tf.data.TFRecordDataset(str(file)).as_numpy_iterator(), 1):
            if number > LARGEST:
                raise errors.InvalidArgument(
                    f"Number of warmup records exceeds the maximum ({LARGEST}) at {file}"
                )
            log = PredictionLog.FromString(record)
            for _ in range(iterations):
                _run(model, log)
    except DecodeError as error:
        raise errors.InvalidArgument(
            f"Failed to parse warmup record {number} from {file}"
        ) from error
    except tf.errors.DataLossError as error:
        raise errors.DataLoss(
            f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error
    return number


def _run(model: Servable, log: PredictionLog) -> None:
    match log.WhichOneof("log_type"):
        case "predict_log":
            model.predict(log.predict_log.request)
        case "classify_log":
            inference.classify(model, log.classify_log.request)
        case "regress_log":
            inference.regress(model, log.regress_log.request)
        case "multi_inference_log":
            inference.multi_inference(model, log.multi_inference_log.request)
        case "session_run_log":
            raise errors.Unimplemented("Unsupported log_type for warmup: session_run_log")
