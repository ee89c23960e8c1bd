"""Load the models that the flags name, and serve them over gRPC and HTTP."""

import argparse
import logging
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import tensorflow as tf

from model_server import config
from model_server.engines import Engine
from model_server.engines.folding import fold
from model_server.engines.tensorflow import TensorFlowEngine
from model_server.flags import fail
from model_server.grpc_services import create_server
from model_server.repository import Repository
from model_server.rest import RestServer, create_app
from model_server.servable import Servable
from model_server.tuning import choose_threads

GRACE_SECONDS = 25  # for requests in flight when a signal ends the server

tf.get_logger().setLevel(logging.ERROR)


def serve(flags: argparse.Namespace) -> None:
    """Answer requests until a signal raises SystemExit, then finish those in flight.

    Ends the process with one line if the flags or their files cannot be used.
    """
    rest = None
    try:
        metrics_path = config.read_metrics_path(flags.monitoring_config_file)
        repository = open_repository(flags)
        server, port = create_server(
            repository,
            f"{flags.host}:{flags.port}",
            max_threads=flags.grpc_max_threads,
            channel_arguments=flags.grpc_channel_arguments,
            socket_path=flags.grpc_socket_path,
            health_checks=flags.enable_grpc_healthcheck_service,
        )
        if flags.rest_api_port:
            timeout = flags.rest_api_timeout_in_ms / 1000 or math.inf
            app = create_app(repository, timeout=timeout, metrics_path=metrics_path)
            rest = RestServer(
                app, flags.host, flags.rest_api_port, threads=flags.rest_api_num_threads
            )
    except (tf.errors.OpError, RuntimeError, OSError) as error:
        fail(f"cannot start: {' '.join(str(error).split())}")
    try:
        server.start()
        print(f"Running gRPC ModelServer at {flags.host}:{port} ...", flush=True)
        if flags.grpc_socket_path:
            print(
                f"Running gRPC ModelServer at UNIX socket {flags.grpc_socket_path} ...", flush=True
            )
        if rest:
            rest.start()
            print(f"Exporting HTTP/REST API at:{flags.host}:{flags.rest_api_port} ...", flush=True)
        while True:
            time.sleep(0.2)  # a longer wait could miss a signal that another thread receives
    finally:
        logging.info("Ending: requests in flight are finished first")
        ended = server.stop(GRACE_SECONDS)
        if rest:
            rest.stop(GRACE_SECONDS)
        ended.wait()


def open_repository(flags: argparse.Namespace) -> Repository:
    """Load the models that the flags name; return the Repository when each has a version.

    A base path without a version is waited for, as TensorFlow Serving does. Raises
    tf.errors.OpError.
    """
    load, batching = engine(flags), None
    if flags.enable_batching:
        batching = config.read_batching_parameters(flags.batching_parameters_file)
    repository = Repository(
        lambda path: Servable(load(path), batching),
        labels_for_unavailable=flags.allow_version_labels_for_unavailable_models,
    )
    file, seconds = flags.model_config_file, flags.model_config_file_poll_wait_seconds
    if file:
        models = config.read_models(file)
    else:
        models = config.single_model(flags.model_name, flags.model_base_path)
    added = repository.reload(models)
    if flags.file_system_poll_wait_seconds:
        repository.repeat(repository.poll, flags.file_system_poll_wait_seconds)
    repository.wait_until_available(added)
    if file and seconds:
        repository.repeat(lambda: repository.reload(config.read_models(file)), seconds)
    return repository


def engine(flags: argparse.Namespace) -> Callable[[Path], Engine]:
    """Return the function that loads the SavedModel in a folder."""
    bfloat16 = flags.mixed_precision == "bfloat16"
    at_once, threads = flags.tensorflow_inter_op_parallelism, flags.tensorflow_intra_op_parallelism
    if flags.runtime == "openvino":
        try:
            from model_server.engines.openvino import OpenVinoEngine
        except ModuleNotFoundError:
            fail("--runtime=openvino needs a package that is not installed: pip install openvino")

    def load(path: Path) -> Engine:
        if flags.runtime == "openvino":
            start = partial(OpenVinoEngine, path, bfloat16=bfloat16)
        else:
            start = partial(TensorFlowEngine, path, fold(path), bfloat16=bfloat16, at_once=at_once)
        return choose_threads(start, path) if threads is None else start(threads=threads)

    return load
