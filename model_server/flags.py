"""The command line: tensorflow_model_server's flags, and our own --host and --runtime."""

import argparse
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn


def fail(message: str, code: int = 1) -> NoReturn:
    """End the process with one line that says why."""
    print(f"model_server: {message}", file=sys.stderr)
    sys.exit(code)


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(f"{message} (python -m model_server --help lists the flags)", code=2)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the flags, by default those of the process; end it where they are wrong."""
    parser = _OneLineParser(
        prog="python -m model_server",
        description="Serve SavedModels as TensorFlow Serving does, on a machine without Docker.",
        allow_abbrev=False,
    )
    _add_flags(parser)
    flags = parser.parse_args(argv)
    if not (flags.model_base_path or flags.model_config_file):
        parser.error("give --model_base_path or --model_config_file")
    if not flags.model_config_file and not flags.model_base_path.is_absolute():
        parser.error(f"--model_base_path={flags.model_base_path} must be an absolute path")
    if flags.batching_parameters_file and not flags.enable_batching:
        parser.error("--batching_parameters_file needs --enable_batching")
    return flags


def _add_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    number = partial(add, type=_whole_number, metavar="N")
    switch = partial(add, type=_switch, nargs="?", const=True, metavar="true|false")
    add("--version", action="version", version=f"TensorFlow {version('tensorflow')}")

    add("--model_name", default="default", help='the name that requests use ("default")')
    add("--model_base_path", type=Path, help="absolute path of the folder of versions")
    add("--model_config_file", type=Path, help="ModelServerConfig: models, versions, labels")
    poll = "--model_config_file_poll_wait_seconds"
    number(poll, default=0, help="read that file again every N seconds, 0: never (0)")
    early = "--allow_version_labels_for_unavailable_models"
    switch(early, default=False, help="let a new label stand for a version not loaded yet (false)")
    poll = "--file_system_poll_wait_seconds"
    number(poll, default=1, help="look for new versions every N seconds, 0: only once (1)")

    switch("--enable_batching", default=False, help="run requests together (false)")
    add("--batching_parameters_file", type=Path, help="BatchingParameters in protobuf text")
    runtimes = ("tensorflow", "openvino")
    add("--runtime", choices=runtimes, default=runtimes[0], help="openvino is faster on CPUs")
    precisions = ("", "bfloat16")
    add("--mixed_precision", choices=precisions, default="", help="faster on CPUs with AMX")
    number("--tensorflow_intra_op_parallelism", help="threads an operation, 0: all (measured)")
    number("--tensorflow_inter_op_parallelism", default=0, help="operations at once, 0: all (0)")

    add("--host", default="0.0.0.0", help="IPv4 address to listen on (0.0.0.0, all there are)")
    number("--port", default=8500, help="gRPC port, 0: a free one (8500)")
    add("--grpc_socket_path", default="", help="a Unix socket to listen on, too")
    number("--grpc_max_threads", help="calls answered at once (4 per CPU)")
    arguments = "--grpc_channel_arguments"
    add(arguments, type=_channel_arguments, help="as in grpc.max_connection_age_ms=2000,…")
    switch("--enable_grpc_healthcheck_service", default=True, help="answer health checks (true)")
    number("--rest_api_port", default=0, help="HTTP port, 0: none (0)")
    number("--rest_api_num_threads", help="HTTP calls answered at once (4 per CPU)")
    number("--rest_api_timeout_in_ms", default=30_000, help="of one HTTP call, 0: none (30000)")
    add("--monitoring_config_file", type=Path, help="MonitoringConfig: metrics on the HTTP port")


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
        arguments[key] = int(value) if value.lstrip("-").isdigit() else value
    return arguments


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)
