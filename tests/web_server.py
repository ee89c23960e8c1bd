"""A WSGI app behind HTTP on this machine."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel("ERROR")  # no line for each request


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve the app on a free port, a thread for each request; yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
