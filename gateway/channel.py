"""Open a gRPC channel that survives restarts of the model server."""

import json
import threading
from contextlib import suppress

import grpc

from gateway.deadline import Deadline
from gateway.errors import DeadlineError

SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    # A server whose queue is full answers UNAVAILABLE, too. After 50 refusals calls are not tried
    # again, until good answers, each worth a tenth of a refusal, have made up for them.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "waitForReady": True,  # until the call's timeout
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
LOOK_AGAIN = 2.0  # seconds
MAX_MESSAGE = 64 * 2**20  # bytes; 32 photos are 34 MB
CHANNEL_OPTIONS = {
    "grpc.service_config": json.dumps(SERVICE_CONFIG),
    "grpc.per_rpc_retry_buffer_size": MAX_MESSAGE,  # a larger message is never retried
    "grpc.enable_http_proxy": 0,  # the model is inside: HTTP_PROXY is for the way out
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 3_000,
    "grpc.http2.ping_timeout_ms": 3_000,  # the default is a minute, despite keepalive_timeout_ms
    "grpc.dns_min_time_between_resolutions_ms": 5_000,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 250,
    "grpc.max_send_message_length": MAX_MESSAGE,
    "grpc.max_receive_message_length": MAX_MESSAGE,
}


def open_channel(address: str) -> grpc.Channel:
    """Return a channel to all servers at `address`; it connects at the first call.

    Args:
        address: "host:port", where all addresses that DNS has for the host share the calls, or a
            target in gRPC's own form, such as "ipv4:///10.0.0.1:8500,10.0.0.2:8500".

    Calls wait for a server until their timeout, so give each call a timeout.
    """
    target = address if ":/" in address else f"dns:///{address}"
    return grpc.insecure_channel(target, options=list(CHANNEL_OPTIONS.items()))


def is_connected(channel: grpc.Channel, *, within: float = 0.05) -> bool:
    """Return whether a server is connected, now or `within` seconds."""
    ready = grpc.channel_ready_future(channel)
    try:
        ready.result(timeout=within)
    except grpc.FutureTimeoutError:
        return False
    finally:
        ready.cancel()
    return True


class LazyChannel:
    """Open a channel at its first use, which must come after any fork of the process."""

    def __init__(self, address: str) -> None:
        """Take an address as `open_channel` does."""
        self._address, self._lock = address, threading.Lock()
        self._channel: grpc.Channel | None = None

    def __call__(self) -> grpc.Channel:
        """Return the channel, the same one for all threads."""
        with self._lock:
            if self._channel is None:
                self._channel = open_channel(self._address)
            return self._channel

    def wait(self, deadline: Deadline) -> None:
        """Return when a server is connected. Raises as `deadline.remaining`.

        A channel that finds no address asks DNS again later and later, up to two minutes. So this
        opens a new channel every LOOK_AGAIN seconds.
        """
        while True:
            ready = grpc.channel_ready_future(channel := self())
            try:
                for seconds in deadline.within(LOOK_AGAIN).waits():
                    with suppress(grpc.FutureTimeoutError):
                        return ready.result(seconds)
            except DeadlineError:
                deadline.remaining()  # the whole time may be up
            finally:
                ready.cancel()
            with self._lock:
                if self._channel is channel:  # no other thread has opened a new one
                    self._channel = open_channel(self._address)
