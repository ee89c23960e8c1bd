"""A WSGI app behind HTTP on this machine."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server


class QuietHandler(WSGIRequestHandler):
    """Answers without a line for each request on stderr."""

    def log(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve the app on a free port, a thread for each request; yields its address."""
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
