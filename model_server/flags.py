"""The command line's flags: names and meanings are tensorflow_model_server's; --runtime is ours."""

import argparse
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} (python -m model_server --help lists the flags)", code=2)


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with one line that says why."""
    print(f"model_server: {message}", file=sys.stderr)
    sys.exit(code)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags, of the process where none are given; end it where they are wrong."""
    parser = _OneLineParser(
        prog="python -m model_server",
        description="Serve SavedModels as TensorFlow Serving does, on a machine without Docker.",
        allow_abbrev=False,
    )
    tensorflow = f"TensorFlow {version('tensorflow')}"
    parser.add_argument("--version", action="version", version=tensorflow)
    _add_models(parser.add_argument_group("what is served"))
    _add_running(parser.add_argument_group("how it is run"))
    _add_faces(parser.add_argument_group("where it is asked"))
    flags = parser.parse_args(argv)
    _check(flags, parser)
    return flags


def _add_models(group: argparse._ArgumentGroup) -> None:
    add, number, switch = _adders(group)
    add("--model_name", default="default", help="the name requests use (default)")
    add("--model_base_path", type=Path, help="absolute path of the version folders")
    add(
        "--model_config_file",
        type=Path,
        help="text-format ModelServerConfig: several models, version policies, labels; "
        "--model_name and --model_base_path are then ignored",
    )
    number(
        "--model_config_file_poll_wait_seconds",
        default=0,
        help="seconds between two readings of that file, 0 for only one (0)",
    )
    switch(
        "--allow_version_labels_for_unavailable_models",
        default=False,
        help="let a new label stand for a version that is not loaded yet, as all are at the start",
    )
    number(
        "--file_system_poll_wait_seconds",
        default=1,
        help="seconds between two looks for a new version, 0 for only one look (1)",
    )
    number(
        "--max_num_load_retries",
        default=0,
        help="how often loading a version is tried again. Default: 0, and whenever its files "
        "change (TensorFlow Serving: 5, so that an error is not known for five minutes)",
    )
    number(
        "--load_retry_interval_micros",
        default=60_000_000,
        help="microseconds between two tries (60000000)",
    )
    add(
        "--saved_model_tags",
        type=lambda text: tuple(text.split(",")),
        default=("serve",),
        help="comma-separated tags of the graph to load (serve)",
    )
    switch(
        "--enable_model_warmup",
        default=True,
        help="run assets.extra/tf_serving_warmup_requests before a version is served (true)",
    )
    number(
        "--num_request_iterations_for_warmup", default=1, help="how often each of them is run (1)"
    )


def _add_running(group: argparse._ArgumentGroup) -> None:
    add, number, switch = _adders(group)
    switch(
        "--enable_batching", default=False, help="run requests that come at the same time together"
    )
    add("--batching_parameters_file", type=Path, help="text-format BatchingParameters")
    switch(
        "--prefer_tflite_model",
        "--use_tflite_model",  # as it was called before
        default=False,
        help="serve model.tflite, where a version's folder has one, instead of its SavedModel",
    )
    add(
        "--runtime",
        choices=("tensorflow", "openvino"),
        default="tensorflow",
        help="what runs SavedModels (tensorflow); openvino, a package to add, is faster on CPUs",
    )
    add(
        "--mixed_precision",
        choices=("", "bfloat16"),
        default="",
        help="bfloat16: compute with it, good to two or three digits; fast on processors with AMX, "
        "slow on others",
    )
    number(
        "--tensorflow_session_parallelism",
        default=0,
        help="threads inside an operation and threads for operations, 0 for one per CPU (0)",
    )
    number("--tensorflow_intra_op_parallelism", default=0, help="the former only")
    number("--tensorflow_inter_op_parallelism", default=0, help="the latter only")
    switch(
        "--enable_profiler",
        default=True,
        help="let TensorFlow's profiler be asked for traces on the gRPC port (true)",
    )


def _add_faces(group: argparse._ArgumentGroup) -> None:
    add, number, switch = _adders(group)
    number("--port", default=8500, help="gRPC port, 0 for a free one (8500)")
    add("--grpc_socket_path", default="", help="a Unix socket to listen on as well")
    number("--grpc_max_threads", help="calls answered at once (4 per CPU)")
    add(
        "--grpc_channel_arguments",
        type=_channel_arguments,
        help="a comma-separated list, as in grpc.max_connection_age_ms=2000",
    )
    switch(
        "--enable_grpc_healthcheck_service",
        default=True,
        help="answer the standard gRPC health checks (true; TensorFlow Serving: false)",
    )
    number("--rest_api_port", default=0, help="HTTP port, 0 for none (0)")
    number("--rest_api_num_threads", help="calls answered at once there (4 per CPU)")
    number(
        "--rest_api_timeout_in_ms",
        default=30_000,
        help="how long a model may run for a request over HTTP, 0 for ever (30000)",
    )
    switch(
        "--rest_api_enable_cors_support",
        default=False,
        help="let pages of other origins use the HTTP port",
    )
    add(
        "--monitoring_config_file",
        type=Path,
        help="text-format MonitoringConfig; it puts metrics for Prometheus on the HTTP port",
    )


def _adders(group: argparse._ArgumentGroup) -> tuple[partial, partial, partial]:
    """Return what adds a flag, one that takes a whole number, and one that is on or off."""
    add = group.add_argument
    return (
        partial(add),
        partial(add, type=_whole_number, metavar="N"),
        partial(add, type=_switch, nargs="?", const=True, metavar="true|false"),
    )


def _check(flags: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if not (flags.model_base_path or flags.model_config_file):
        parser.error("one of --model_base_path and --model_config_file is needed")
    if not flags.model_config_file and not flags.model_base_path.is_absolute():
        parser.error(
            f"Expected model {flags.model_name} to have an absolute path; "
            f"got --model_base_path={flags.model_base_path}"
        )
    if flags.batching_parameters_file and not flags.enable_batching:
        parser.error("--batching_parameters_file is set without --enable_batching")
    either = flags.tensorflow_intra_op_parallelism or flags.tensorflow_inter_op_parallelism
    if either and flags.tensorflow_session_parallelism:
        parser.error(
            "either configure --tensorflow_session_parallelism, or "
            "--tensorflow_intra_op_parallelism and --tensorflow_inter_op_parallelism"
        )
    for flag in ("port", "rest_api_port"):
        if getattr(flags, flag) > 65535:
            parser.error(f"--{flag}={getattr(flags, flag)}: there is no such port")


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def _channel_arguments(text: str) -> dict[str, int | str]:
    arguments: dict[str, int | str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{item!r} is not of the form key=value")
        try:
            arguments[key] = int(value)
        except ValueError:
            arguments[key] = value
    return arguments
