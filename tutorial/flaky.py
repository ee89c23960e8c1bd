"""A model server without a model that fails on request, for lessons about failures."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tutorial.processes import free_port


class FlakyServer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """A gRPC server with TensorFlow Serving's Predict method; its answers are empty.

    Set `refusals` to the number of calls to refuse with UNAVAILABLE, and `delay` to the seconds
    that each call takes. `calls` counts the calls that arrived.
    """

    def __init__(self) -> None:
        """Choose a free port and start."""
        self.port = free_port()
        self.calls, self.refusals, self.delay = 0, 0, 0.0
        self.start()

    def start(self) -> None:
        """Listen on the port, for the first time or after `stop`."""
        self._server = grpc.server(ThreadPoolExecutor(16))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Close the port and all connections."""
        self._server.stop(None).wait()

    def Predict(
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Refuse, or answer after the delay."""
        self.calls += 1
        time.sleep(self.delay)
        if self.refusals > 0:
            self.refusals -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "come back later")
        return predict_pb2.PredictResponse()


class FreezableProxy:
    """Pass bytes between a port of this machine and another one, unless `flowing` is cleared.

    While it is not set, connections stay open and are silent, like those of a machine that hangs.
    """

    def __init__(self, target_port: int) -> None:
        """Listen on a free port, `port`, and connect to `target_port` for each connection."""
        self.flowing = threading.Event()
        self.flowing.set()
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            with suppress(OSError):
                far = socket.create_connection(("127.0.0.1", self._target_port))
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.flowing.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
