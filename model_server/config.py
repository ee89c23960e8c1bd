"""Configuration files in protobuf text: models to serve, batching, and where metrics are."""

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf import wrappers_pb2 as wrappers
from google.protobuf.message import Message
from tensorflow_serving.config.file_system_storage_path_source_pb2 import (
    FileSystemStoragePathSourceConfig,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from model_server import errors

_log = logging.getLogger(__name__)

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy
PLATFORM = "tensorflow"  # the only one there is
METRICS_PATH = "/monitoring/prometheus/metrics"

# Two messages that TensorFlow Serving reads and tensorflow-serving-api lacks. In protobuf text only
# the names and types of fields count, so their numbers are arbitrary.
_MISSING_MESSAGES = """
name: "model_server/config.proto" package: "model_server" syntax: "proto3"
dependency: "google/protobuf/wrappers.proto"
message_type { name: "BatchingParameters"
  field { name: "max_batch_size" number: 1 type_name: ".google.protobuf.Int64Value" }
  field { name: "batch_timeout_micros" number: 2 type_name: ".google.protobuf.Int64Value" }
  field { name: "max_enqueued_batches" number: 3 type_name: ".google.protobuf.Int64Value" }
  field { name: "num_batch_threads" number: 4 type_name: ".google.protobuf.Int64Value" }
  field { name: "thread_pool_name" number: 5 type_name: ".google.protobuf.StringValue" }
  field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
  field { name: "pad_variable_length_inputs" number: 7 type: TYPE_BOOL }
  field { name: "enable_large_batch_splitting" number: 8 type_name: ".google.protobuf.BoolValue" }
  field { name: "max_execution_batch_size" number: 9 type_name: ".google.protobuf.Int64Value" }
}
message_type { name: "MonitoringConfig"
  field { name: "prometheus_config" number: 1 type_name: ".model_server.PrometheusConfig" }
}
message_type { name: "PrometheusConfig"
  field { name: "enable" number: 1 type: TYPE_BOOL }
  field { name: "path" number: 2 type: TYPE_STRING }
}
"""


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are grouped into batches; the defaults are those of TensorFlow's scheduler."""

    max_batch_size: int = 1000  # rows; a request with more is refused
    batch_timeout_micros: int = 0  # how long the first request of a batch waits for others
    max_enqueued_batches: int = 10  # a request that would make it more is refused
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)  # batches at once

    def __post_init__(self):
        """Raise tf.errors.InvalidArgumentError where no batcher can work like this."""
        for name, value in vars(self).items():
            least = 0 if name == "batch_timeout_micros" else 1
            if value < least:
                raise errors.InvalidArgument(f"{name} is {value}; it must be at least {least}")


def read_models(path: Path) -> ModelServerConfig:
    """Return the models that a --model_config_file lists. Raises tf.errors.OpError."""
    return _read(path, ModelServerConfig())


def single_model(name: str, base_path: Path) -> ModelServerConfig:
    """Return the configuration that --model_name and --model_base_path stand for."""
    model = ModelConfig(name=name, base_path=str(base_path), model_platform=PLATFORM)
    return ModelServerConfig(model_config_list={"config": [model]})


def check_models(models: Iterable[ModelConfig]) -> None:
    """Raise tf.errors.InvalidArgumentError where a list of models cannot be served."""
    names = set()
    for model in models:
        if model.name in names:
            raise errors.InvalidArgument(f'model "{model.name}" is listed twice')
        names.add(model.name)
        if not os.path.isabs(model.base_path):
            raise errors.InvalidArgument(
                f'base_path of model "{model.name}" is "{model.base_path}"; it must be absolute'
            )
        if model.model_platform != PLATFORM:
            raise errors.InvalidArgument(
                f'model_platform of model "{model.name}" is "{model.model_platform}"; '
                f'supported: "{PLATFORM}"'
            )


def wanted_versions(policy: VersionPolicy, there: set[int]) -> list[int]:
    """Return which of the versions that are there a policy wants to be served, newest first."""
    newest_first = sorted(there, reverse=True)
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return newest_first
    if choice == "specific":
        return [number for number in newest_first if number in policy.specific.versions]
    return newest_first[: max(1, policy.latest.num_versions)]


def read_batching_parameters(path: Path | None) -> BatchingParameters:
    """Return what a --batching_parameters_file says, or the defaults where there is none.

    Raises tf.errors.OpError when the file cannot be read, or no batcher can work like this.
    """
    if path is None:
        return BatchingParameters()
    given = {}
    for found, value in _read(path, _new_message("BatchingParameters")).ListFields():
        if found.name in BatchingParameters.__dataclass_fields__:
            given[found.name] = value.value
        else:
            _log.warning("%s: %s is ignored", path, found.name)
    return BatchingParameters(**given)


def read_metrics_path(path: Path | None) -> str | None:
    """Return where metrics are served, if a --monitoring_config_file enables them.

    Raises tf.errors.OpError when the file cannot be read.
    """
    if path is None:
        return None
    prometheus = _read(path, _new_message("MonitoringConfig")).prometheus_config
    return (prometheus.path or METRICS_PATH) if prometheus.enable else None


def _read(path: Path, message: Message) -> Message:
    try:
        return text_format.Parse(path.read_text(), message)
    except OSError as error:
        raise errors.NotFound(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, text_format.ParseError) as error:
        name = message.DESCRIPTOR.name
        raise errors.InvalidArgument(f"{path} is no {name} in protobuf text: {error}") from error


def _new_message(name: str) -> Message:
    file = text_format.Parse(_MISSING_MESSAGES, descriptor_pb2.FileDescriptorProto())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"model_server.{name}"))()
