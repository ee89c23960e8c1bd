"""Run the model server: `python -m model_server --port=8500 --model_name=… --model_base_path=…`."""

import argparse
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from model_server.flags import fail, parse
from model_server.shutdown import catch_signals

HOST = "0.0.0.0"  # every interface, as TensorFlow Serving listens
GRACE_SECONDS = 25  # for requests in flight when a signal ends the server


def main(argv: list[str] | None = None) -> int:
    """Load the model, answer requests until SIGTERM or SIGINT, return the exit code."""
    flags = parse(argv)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # nothing is in flight before we listen
    _refuse_taken_ports(flags)
    _import_tensorflow_quietly(flags)
    import tensorflow as tf

    from model_server import config
    from model_server.grpc_services import create_server

    if flags.rest_api_port:
        from model_server.rest import RestServer, create_app  # Flask takes a third of a second

    rest = None
    try:
        metrics_path = config.read_metrics_path(flags.monitoring_config_file)
        repository = _open_repository(flags)
        server, port = create_server(
            repository,
            f"{HOST}:{flags.port}",
            max_threads=flags.grpc_max_threads,
            channel_arguments=flags.grpc_channel_arguments,
            socket_path=flags.grpc_socket_path,
            health_checks=flags.enable_grpc_healthcheck_service,
        )
        if flags.rest_api_port:
            timeout = flags.rest_api_timeout_in_ms / 1000 or math.inf
            app = create_app(repository, timeout=timeout, metrics_path=metrics_path)
            rest = RestServer(app, HOST, flags.rest_api_port, threads=flags.rest_api_num_threads)
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        fail(f"cannot start: {' '.join(str(error).split())}")
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


def _open_repository(flags: argparse.Namespace):
    """Load the models that the flags name; return the Repository when each has a version.

    A base path without a version is waited for, as TensorFlow Serving does. Raises
    tf.errors.OpError.
    """
    from model_server import config
    from model_server.repository import Repository
    from model_server.servable import Servable

    open_engine, batching = engine(flags), None
    if flags.enable_batching:
        batching = config.read_batching_parameters(flags.batching_parameters_file)
    repository = Repository(
        lambda path: Servable(open_engine(path), batching),
        labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
    )
    added = repository.reload(
        config.read_models(flags.model_config_file)
        if flags.model_config_file
        else config.single_model(flags.model_name, flags.model_base_path)
    )
    if flags.file_system_poll_wait_seconds:
        repository.watch(flags.file_system_poll_wait_seconds)
    repository.wait_until_available(added)
    return repository


def engine(flags: argparse.Namespace) -> Callable:
    """Return what makes an Engine of a version's folder."""
    bfloat16 = flags.mixed_precision == "bfloat16"
    if flags.runtime == "openvino":
        try:
            from model_server.engines.openvino import OpenVinoEngine
        except ModuleNotFoundError:
            fail("--runtime=openvino needs a package that is not installed: pip install openvino")
        threads = flags.tensorflow_intra_op_parallelism
        return partial(OpenVinoEngine, bfloat16=bfloat16, threads=threads)
    from model_server.engines.tensorflow import TensorFlowEngine

    return partial(TensorFlowEngine, bfloat16=bfloat16)


def _refuse_taken_ports(flags: argparse.Namespace) -> None:
    """Say so at once, not after the seconds that it takes to load TensorFlow."""
    for flag in ("port", "rest_api_port"):
        port = getattr(flags, flag)
        try:
            socket.create_server((HOST, port)).close()
        except (OSError, OverflowError):
            fail(f"port {port} is in use or not allowed; choose another with --{flag}")


def _import_tensorflow_quietly(flags: argparse.Namespace) -> None:
    """Import TensorFlow without its log lines, and set its numbers of threads.

    Some lines come from its C++ code whatever TF_CPP_MIN_LOG_LEVEL says. Keras is kept out: nothing
    here uses it, and it takes a third of the time. The first session fixes the threads of all.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.modules.setdefault("keras", None)
    with _native_stderr_muted():
        import tensorflow as tf

        tf.get_logger().setLevel(logging.ERROR)
        threads = tf.compat.v1.ConfigProto(
            intra_op_parallelism_threads=flags.tensorflow_intra_op_parallelism,
            inter_op_parallelism_threads=flags.tensorflow_inter_op_parallelism,
        )
        with tf.Graph().as_default(), tf.compat.v1.Session(config=threads) as session:
            session.run(tf.no_op())


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
    os._exit(code)  # a thread still inside TensorFlow would delay a regular exit
