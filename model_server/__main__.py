"""Run the model server: `python -m model_server --port=8500 --model_name=… --model_base_path=…`."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

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
    _refuse_taken_port(flags.port)

    _import_tensorflow_quietly()
    from model_server.grpc_services import create_server
    from model_server.versions import Model, Repository

    repository = Repository([Model(flags.model_name, flags.model_base_path)])
    repository.poll()
    if repository.has_failures():
        return 1  # the log says why
    try:
        server, port = create_server(
            repository,
            f"{HOST}:{flags.port}",
            max_threads=flags.grpc_max_threads,
            channel_arguments=flags.grpc_channel_arguments,
        )
    except RuntimeError:
        _fail_for_port(flags.port)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server.start()
    if flags.file_system_poll_wait_seconds:
        repository.watch(flags.file_system_poll_wait_seconds)
    print(f"Running gRPC ModelServer at {HOST}:{port} ...", flush=True)

    stop.wait()
    logging.info("Ending: requests in flight are finished first")
    server.stop(GRACE_SECONDS).wait()
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the flags, named and meant as tensorflow_model_server's; exit where they are wrong."""
    parser = _OneLineParser(prog="python -m model_server", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--port", type=_whole_number, default=8500, help="gRPC port, 0 for a free one (8500)")
    add("--model_name", default="default", help="the name requests use (default)")
    add("--model_base_path", type=Path, required=True, help="absolute path of the version folders")
    add(
        "--file_system_poll_wait_seconds",
        type=_whole_number,
        default=1,
        help="seconds between two looks for a new version, 0 for only one look (1)",
    )
    add("--grpc_max_threads", type=_whole_number, help="calls answered at once (4 per CPU)")
    add(
        "--grpc_channel_arguments",
        type=_channel_arguments,
        help="a comma-separated list, as in grpc.max_connection_age_ms=2000",
    )
    flags = parser.parse_args(argv)
    if not flags.model_base_path.is_absolute():
        parser.error(
            f"Expected model {flags.model_name} to have an absolute path; "
            f"got --model_base_path={flags.model_base_path}"
        )
    if flags.port > 65535:
        parser.error(f"--port={flags.port}: there is no such port")
    return flags


def _whole_number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


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


def _refuse_taken_port(port: int) -> None:
    """Say so at once, not after the seconds it takes to load TensorFlow."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        _fail_for_port(port)


def _fail_for_port(port: int) -> NoReturn:
    _fail(
        f"Failed to start server. Error: port {port} is in use or not allowed; end what listens "
        "there, or choose another with --port"
    )


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"model_server: {message}", file=sys.stderr)
    sys.exit(code)


def _import_tensorflow_quietly() -> None:
    """Import TensorFlow, and open its first session, without the log lines it greets with.

    They are written by its C++ code, some of them whatever TF_CPP_MIN_LOG_LEVEL says. Keras, which
    TensorFlow imports where it finds it, is kept out: a third of the time, and nobody needs it.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.modules.setdefault("keras", None)
    with _native_stderr_muted():
        import tensorflow as tf

        tf.get_logger().setLevel(logging.ERROR)
        with tf.compat.v1.Session(graph=tf.Graph()) as session:
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
    code = main()
    logging.shutdown()
    os._exit(code)  # a thread still inside TensorFlow would hold up a regular exit
