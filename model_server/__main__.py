"""Run the model server: `python -m model_server --port=8500 --model_name=… --model_base_path=…`."""

import argparse
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from model_server.ending import catch_signals
from model_server.flags import fail, parse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from model_server.repository import Repository
    from model_server.runtime.servable import Engine

HOST = "0.0.0.0"  # every interface, as TensorFlow Serving listens
GRACE_SECONDS = 25  # for requests in flight when the server is told to end


def main(argv: list[str] | None = None) -> int:
    """Load the model, answer requests until SIGTERM or SIGINT, return the exit code."""
    flags = parse(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing is in flight before we listen
    _refuse_taken_port(flags.port, "--port")
    _refuse_taken_port(flags.rest_api_port, "--rest_api_port")

    _import_tensorflow_quietly(flags)
    import tensorflow as tf

    from model_server import errors, monitoring
    from model_server.grpc_services import create_server
    from model_server.rest.server import RestApi, RestServer

    try:
        metrics_path = (
            monitoring.read_path(flags.monitoring_config_file)
            if flags.monitoring_config_file
            else None
        )
        repository = _open_repository(flags)
    except tf.errors.OpError as error:
        fail(f"Failed to start server. Error: {errors.text(error)}")
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
            fail(f"Failed to start server. Error: cannot listen at {flags.grpc_socket_path}")
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
    wait_for_signal = catch_signals(signal.SIGTERM, signal.SIGINT)
    server.start()
    if flags.model_config_file and flags.model_config_file_poll_wait_seconds:
        repository.watch_config(flags.model_config_file, flags.model_config_file_poll_wait_seconds)
    print(f"Running gRPC ModelServer at {HOST}:{port} ...", flush=True)
    if flags.grpc_socket_path:
        print(f"Running gRPC ModelServer at UNIX socket {flags.grpc_socket_path} ...", flush=True)
    if rest:
        rest.start()
        print(f"Exporting HTTP/REST API at:{HOST}:{rest.port} ...", flush=True)

    wait_for_signal()
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
    from model_server.repository import Repository
    from model_server.versions import LoadOptions

    options = LoadOptions(
        open_engine=engine(flags),
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


def engine(flags: argparse.Namespace) -> "Callable[[Path], Engine]":
    """Return what opens a version's folder to run it."""
    bfloat16 = flags.mixed_precision == "bfloat16"
    if flags.runtime == "openvino":
        try:
            from model_server.runtime.openvino_engine import OpenVinoEngine
        except ModuleNotFoundError:
            fail("--runtime=openvino needs OpenVINO, which is not installed: pip install openvino")
        threads = flags.tensorflow_intra_op_parallelism or flags.tensorflow_session_parallelism
        load = partial(
            OpenVinoEngine, tags=flags.saved_model_tags, bfloat16=bfloat16, threads=threads
        )
    else:
        from model_server.runtime.tensorflow_engine import TensorFlowEngine

        load = partial(TensorFlowEngine, tags=flags.saved_model_tags, bfloat16=bfloat16)
    if not flags.prefer_tflite_model:
        return load
    from model_server.runtime import tflite_engine

    return lambda path: (
        tflite_engine.TfLiteEngine(path)
        if (path / tflite_engine.FILE_NAME).exists()
        else load(path)
    )


def _refuse_taken_port(port: int, flag: str) -> None:
    """Say so at once, not after the seconds it takes to load TensorFlow."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        _fail_for_port(port, flag)


def _fail_for_port(port: int, flag: str) -> NoReturn:
    fail(
        f"Failed to start server. Error: port {port} is in use or not allowed; end what listens "
        f"there, or choose another with {flag}"
    )


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
