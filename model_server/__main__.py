"""Run the model server: `python -m model_server --port=8500 --model_name=… --model_base_path=…`."""

import argparse
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from model_server.versions import Repository

HOST = "0.0.0.0"  # every interface, as TensorFlow Serving listens
GRACE_SECONDS = 25  # for requests in flight when the server is told to end


class _OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message} (python -m model_server --help lists the flags)", code=2)


def main(argv: list[str] | None = None) -> int:
    """Load the model, answer requests until SIGTERM or SIGINT, return the exit code."""
    flags = _parse(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing is in flight before we listen
    _refuse_taken_port(flags.port, "--port")
    _refuse_taken_port(flags.rest_api_port, "--rest_api_port")

    _import_tensorflow_quietly(flags)
    import tensorflow as tf

    from model_server import errors, monitoring
    from model_server.grpc_services import create_server
    from model_server.rest import RestApi, RestServer

    try:
        metrics_path = (
            monitoring.read_path(flags.monitoring_config_file)
            if flags.monitoring_config_file
            else None
        )
        repository = _open_repository(flags)
    except tf.errors.OpError as error:
        _fail(f"Failed to start server. Error: {errors.text(error)}")
    try:
        server, port = create_server(
            repository,
            f"{HOST}:{flags.port}",
            max_threads=flags.grpc_max_threads,
            channel_arguments=flags.grpc_channel_arguments,
            socket_path=flags.grpc_socket_path,
            health_checks=flags.enable_grpc_healthcheck_service,
            profiler=flags.enable_profiler,
        )
    except RuntimeError as error:
        if "unix:" in str(error):
            _fail(f"Failed to start server. Error: cannot listen at {flags.grpc_socket_path}")
        _fail_for_port(flags.port, "--port")
    rest = None
    if flags.rest_api_port:
        api = RestApi(
            repository,
            timeout=flags.rest_api_timeout_in_ms / 1000 or math.inf,
            metrics_path=metrics_path,
            cors=flags.rest_api_enable_cors_support,
        )
        try:
            rest = RestServer(api, HOST, flags.rest_api_port, threads=flags.rest_api_num_threads)
        except OSError:
            _fail_for_port(flags.rest_api_port, "--rest_api_port")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds:
        repository.watch_config(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
    print(f"Running gRPC ModelServer at {HOST}:{port} ...", flush=True)
    if flags.grpc_socket_path:
        print(f"Running gRPC ModelServer at UNIX socket {flags.grpc_socket_path} ...", flush=True)
    if rest:
        rest.start()
        print(f"Exporting HTTP/REST API at:{HOST}:{rest.port} ...", flush=True)

    stop.wait()
    logging.info("Ending: requests in flight are finished first")
    ended = server.stop(GRACE_SECONDS)
    if rest:
        rest.stop(GRACE_SECONDS)
    ended.wait()
    return 0


def _open_repository(flags: argparse.Namespace) -> "Repository":
    """Load the models that the flags name; return when each has a version that is served.

    A base path without a version is waited for, as TensorFlow Serving does. Raises
    tf.errors.OpError.
    """
    from model_server import config
    from model_server.versions import LoadOptions, Repository

    options = LoadOptions(
        tags=flags.saved_model_tags,
        batching=(
            config.read_batching_parameters(flags.batching_parameters_file)
            if flags.enable_batching
            else None
        ),
        warmup_iterations=(
            max(1, flags.num_request_iterations_for_warmup) if flags.enable_model_warmup else 0
        ),
        retries=flags.max_num_load_retries,
        retry_seconds=flags.load_retry_interval_micros / 1e6,
    )
    repository = Repository(
        options=options, labels_for_unavailable=flags.allow_version_labels_for_unavailable_models
    )
    repository.reload(
        config.read_models(flags.model_config_file)
        if flags.model_config_file
        else config.single_model(flags.model_name, flags.model_base_path)
    )
    if flags.file_system_poll_wait_seconds:
        repository.watch(flags.file_system_poll_wait_seconds)
    repository.wait_until_available()
    return repository


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the flags, named and meant as tensorflow_model_server's; exit where they are wrong."""
    parser = _OneLineParser(prog="python -m model_server", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--port", type=_whole_number, default=8500, help="gRPC port, 0 for a free one (8500)")
    add("--model_name", default="default", help="the name requests use (default)")
    add("--model_base_path", type=Path, help="absolute path of the version folders")
    add(
        "--model_config_file",
        type=Path,
        help="text-format ModelServerConfig: several models, version policies, labels; "
        "--model_name and --model_base_path are then ignored",
    )
    add(
        "--model_config_file_poll_wait_seconds",
        type=_whole_number,
        default=0,
        help="seconds between two readings of that file, 0 for only one (0)",
    )
    add(
        "--allow_version_labels_for_unavailable_models",
        type=_switch,
        nargs="?",
        const=True,
        default=False,
        help="let a new label stand for a version that is not loaded yet, as all are at the start",
    )
    add(
        "--file_system_poll_wait_seconds",
        type=_whole_number,
        default=1,
        help="seconds between two looks for a new version, 0 for only one look (1)",
    )
    add(
        "--max_num_load_retries",
        type=_whole_number,
        default=0,
        help="how often loading a version is tried again. Default: 0, and whenever its files "
        "change (TensorFlow Serving: 5, so that an error is not known for five minutes)",
    )
    add(
        "--load_retry_interval_micros",
        type=int,
        default=60_000_000,
        help="microseconds between two tries (60000000)",
    )
    add(
        "--enable_batching",
        type=_switch,
        nargs="?",
        const=True,
        default=False,
        help="run requests that come at the same time together",
    )
    add("--batching_parameters_file", type=Path, help="text-format BatchingParameters")
    add(
        "--enable_model_warmup",
        type=_switch,
        nargs="?",
        const=True,
        default=True,
        help="run assets.extra/tf_serving_warmup_requests before a version is served (true)",
    )
    add(
        "--num_request_iterations_for_warmup",
        type=_whole_number,
        default=1,
        help="how often each of them is run (1)",
    )
    add(
        "--saved_model_tags",
        type=lambda text: tuple(text.split(",")),
        default=("serve",),
        help="comma-separated tags of the graph to load (serve)",
    )
    add(
        "--tensorflow_session_parallelism",
        type=_whole_number,
        default=0,
        help="threads inside an operation and threads for operations, 0 for one per CPU (0)",
    )
    add("--tensorflow_intra_op_parallelism", type=_whole_number, default=0, help="the former only")
    add("--tensorflow_inter_op_parallelism", type=_whole_number, default=0, help="the latter only")
    add("--grpc_socket_path", default="", help="a Unix socket to listen on as well")
    add("--grpc_max_threads", type=_whole_number, help="calls answered at once (4 per CPU)")
    add(
        "--enable_grpc_healthcheck_service",
        type=_switch,
        nargs="?",
        const=True,
        default=True,
        help="answer the standard gRPC health checks (true; TensorFlow Serving: false)",
    )
    add(
        "--enable_profiler",
        type=_switch,
        nargs="?",
        const=True,
        default=True,
        help="let TensorFlow's profiler be asked for traces on the gRPC port (true)",
    )
    add("--rest_api_port", type=_whole_number, default=0, help="HTTP port, 0 for none (0)")
    add("--rest_api_num_threads", type=_whole_number, help="answered at once there (4 per CPU)")
    add(
        "--rest_api_timeout_in_ms",
        type=_whole_number,
        default=30_000,
        help="how long a model may run for a request over HTTP, 0 for ever (30000)",
    )
    add(
        "--rest_api_enable_cors_support",
        type=_switch,
        nargs="?",
        const=True,
        default=False,
        help="let pages of other origins use the HTTP port",
    )
    add(
        "--monitoring_config_file",
        type=Path,
        help="text-format MonitoringConfig; it puts metrics for Prometheus on the HTTP port",
    )
    add(
        "--grpc_channel_arguments",
        type=_channel_arguments,
        help="a comma-separated list, as in grpc.max_connection_age_ms=2000",
    )
    flags = parser.parse_args(argv)
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
    return flags


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


def _refuse_taken_port(port: int, flag: str) -> None:
    """Say so at once, not after the seconds it takes to load TensorFlow."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        _fail_for_port(port, flag)


def _fail_for_port(port: int, flag: str) -> NoReturn:
    _fail(
        f"Failed to start server. Error: port {port} is in use or not allowed; end what listens "
        f"there, or choose another with {flag}"
    )


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"model_server: {message}", file=sys.stderr)
    sys.exit(code)


def _import_tensorflow_quietly(flags: argparse.Namespace) -> None:
    """Import TensorFlow, and open its first session, without the log lines it greets with.

    The first session also fixes how many threads all others share.
    They are written by its C++ code, some of them whatever TF_CPP_MIN_LOG_LEVEL says. Keras, which
    TensorFlow imports where it finds it, is kept out: a third of the time, and nobody needs it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.modules.setdefault("keras", None)
    with _native_stderr_muted():
        import tensorflow as tf

        tf.get_logger().setLevel(logging.ERROR)
        both = flags.tensorflow_session_parallelism
        threads = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=flags.tensorflow_intra_op_parallelism or both,
            inter_op_parallelism_threads=flags.tensorflow_inter_op_parallelism or both,
        )
        with tf.compat.v1.Session(graph=tf.Graph(), config=threads) as session:
            with session.graph.as_default():
                nothing = tf.no_op()
            session.run(nothing)


@contextmanager
def _native_stderr_muted() -> Iterator[None]:
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


if __name__ == "__main__":
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # a thread still inside TensorFlow would hold up a regular exit
