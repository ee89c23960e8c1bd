"""TensorFlow's profiler, reached through the server's own gRPC port as in TensorFlow Serving.

TensorFlow has a server for it, with a port of its own: it is started when the first trace is asked
for, and such calls are passed on to it.
"""

import socket
import threading

import grpc
import tensorflow as tf

_SERVICE = "/tensorflow.ProfilerService/"


class ProfilerService(grpc.GenericRpcHandler):
    """Answers any method of tensorflow.ProfilerService."""

    def __init__(self):
        """Start nothing yet."""
        self._turn = threading.Lock()
        self._channel: grpc.Channel | None = None

    def service(self, call: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return what answers a call, if it is one to the profiler."""
        if not call.method.startswith(_SERVICE):
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass_on(call.method, request, context)
        )

    def _pass_on(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        with self._turn:
            if not self._channel:
                with socket.create_server(("", 0)) as free:
                    port = free.getsockname()[1]
                tf.profiler.experimental.server.start(port)
                self._channel = grpc.insecure_channel(
                    f"localhost:{port}", options=[("grpc.max_receive_message_length", -1)]
                )
        try:
            return self._channel.unary_unary(method)(request, timeout=context.time_remaining())
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
