"""Run the model server: `python -m model_server --port=8500 --model_name=… --model_base_path=…`."""

import logging
import os
import signal
import socket
import sys

from model_server.flags import fail, parse


def main() -> None:
    """Serve what the command line names until SIGTERM or SIGINT."""
    flags = parse()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    for flag in ("port", "rest_api_port"):  # before the seconds that it takes to load TensorFlow
        port = getattr(flags, flag)
        try:
            socket.create_server((flags.host, port)).close()
        except (OSError, OverflowError):
            fail(f"port {port} is in use at {flags.host}, or not allowed: set --{flag} or --host")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # no lines about GPUs where there are none
    os.environ["TF_OVERRIDE_GLOBAL_THREADPOOL"] = "1"  # each model has its own threads
    # Serving changes no weights, so oneDNN may keep them in its own order: see folding.py.
    os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    sys.modules.setdefault("keras", None)  # not used here, and a third of TensorFlow's load time

    from model_server.server import serve

    serve(flags)


if __name__ == "__main__":
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # a thread still inside TensorFlow would delay a regular exit
