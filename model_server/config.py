"""Configuration files, all protobuf text: which models to serve, and how to batch requests."""

import os
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

VersionPolicy = FileSystemStoragePathSourceConfig.ServableVersionPolicy
PLATFORM = "tensorflow"  # the only one there is

_TENSORFLOW_TYPE = 1  # of ModelConfig.model_type, which is deprecated and still read


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are grouped into batches; the defaults are those of TensorFlow's scheduler."""

    max_batch_size: int = 1000  # rows; a request of more is refused, or split where that is enabled
    batch_timeout_micros: int = 0  # how long the first request of a batch waits for others
    max_enqueued_batches: int = 10  # a request that would make it more is refused
    num_batch_threads: int = field(default_factory=lambda: os.cpu_count() or 1)  # batches at once
    allowed_batch_sizes: tuple[int, ...] = ()  # a batch is filled up to the next of these
    pad_variable_length_inputs: bool = (
        False  # fill up shorter inputs, instead of keeping them apart
    )
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int = 0  # of the parts of a split request; 0: max_batch_size


def read(path: Path, message: Message) -> None:
    """Fill a message from a file of protobuf text.

    Raises tf.errors.OpError when the file cannot be read or is something else.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise errors.NotFound(f"{path}; {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise errors.InvalidArgument(f"Invalid protobuf file: '{path}' ({error})") from error
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise errors.InvalidArgument(
            f"Error parsing text-format {message.DESCRIPTOR.full_name}: {error} "
            f"Invalid protobuf file: '{path}'"
        ) from error


def read_models(path: Path) -> ModelServerConfig:
    """Return the models that a --model_config_file lists. Raises tf.errors.OpError."""
    config = ModelServerConfig()
    read(path, config)
    return config


def single_model(name: str, base_path: Path) -> ModelServerConfig:
    """Return the configuration that --model_name and --model_base_path stand for."""
    config = ModelServerConfig()
    config.model_config_list.config.add(
        name=name, base_path=str(base_path), model_platform=PLATFORM
    )
    return config


def check_models(models: list[ModelConfig]) -> None:
    """Raise tf.errors.InvalidArgumentError where a list of models cannot be served."""
    names = set()
    for model in models:
        if model.name in names:
            raise errors.InvalidArgument(
                f"Illegal to list model {model.name} multiple times in config list"
            )
        names.add(model.name)
        if not os.path.isabs(model.base_path):
            raise errors.InvalidArgument(
                f"Expected model {model.name} to have an absolute path or URI; "
                f"got base_path()={model.base_path}"
            )
        _check_platform(model)


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

    Raises tf.errors.OpError when the file cannot be read, or no batcher can work that way.
    """
    message = _batching_message()
    if path:
        read(path, message)
    given = {}
    for descriptor, value in message.ListFields():
        if isinstance(value, Message):  # google.protobuf.Int64Value and the like
            value = value.value
        given[descriptor.name] = value if isinstance(value, int) else tuple(value)
    given.pop("thread_pool_name", None)  # it names threads of TensorFlow Serving's
    parameters = BatchingParameters(**given)
    _check_batching(parameters)
    return parameters


def _check_platform(model: ModelConfig) -> None:
    if model.model_type and model.model_platform:
        raise errors.InvalidArgument(
            "Illegal setting both ModelServerConfig::model_type (deprecated) and "
            "ModelServerConfig::model_platform."
        )
    if model.model_type:
        if model.model_type != _TENSORFLOW_TYPE:
            raise errors.InvalidArgument(
                f"ModelServerConfig::model_type choice {model.model_type} not supported."
            )
    elif not model.model_platform:
        raise errors.InvalidArgument(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform."
        )
    elif model.model_platform != PLATFORM:
        raise errors.InvalidArgument(
            f"Model {model.name} requests unsupported platform {model.model_platform}"
        )


def _check_batching(parameters: BatchingParameters) -> None:
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(parameters, name) < 1:
            raise errors.InvalidArgument(
                f"{name} must be positive; was {getattr(parameters, name)}"
            )
    if parameters.batch_timeout_micros < 0:
        raise errors.InvalidArgument(
            f"batch_timeout_micros must be non-negative; was {parameters.batch_timeout_micros}"
        )
    sizes = parameters.allowed_batch_sizes
    if not sizes:
        return
    if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise errors.InvalidArgument("allowed_batch_sizes entries must be in increasing order")
    name, last = "max_batch_size", parameters.max_batch_size
    if parameters.enable_large_batch_splitting and parameters.max_execution_batch_size:
        name, last = "max_execution_batch_size", parameters.max_execution_batch_size
    if sizes[-1] != last:
        raise errors.InvalidArgument(
            f"Last entry in allowed_batch_sizes must match {name}; last entry was {sizes[-1]}; "
            f"expected {last}"
        )


def _batching_message() -> Message:
    """Return an empty tensorflow.serving.BatchingParameters.

    Its definition (session_bundle_config.proto) is no part of tensorflow-serving-api. In text, only
    names and types of fields count, so the numbers here are arbitrary.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="model_server/batching_parameters.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    types = {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": kinds.TYPE_INT64,
        "pad_variable_length_inputs": kinds.TYPE_BOOL,
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    }
    for number, (name, kind) in enumerate(types.items(), 1):
        repeated = name == "allowed_batch_sizes"
        added = message.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
        )
        if isinstance(kind, str):
            added.type, added.type_name = kinds.TYPE_MESSAGE, f".google.protobuf.{kind}"
        else:
            added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    full_name = "tensorflow.serving.BatchingParameters"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))()
