"""Hold requests while no model server runs: a model that is scaled to zero has to start first."""

import time
from math import inf

import grpc
from flask import current_app, request

from gateway import model_client
from gateway.channel import LazyChannel, is_connected
from gateway.deadline import Deadline
from gateway.errors import DeadlineError, NoModelError
from gateway.incoming import caller_left, requested_seconds, stage
from gateway.model_client import ModelClient


def hold_request(channel: LazyChannel) -> None:
    """Wait until a model server is connected; the current request goes on then.

    Raises NoModelError after MODEL_WAIT seconds, or when the caller's Request-Timeout is over;
    CallerLeftError. Answers 400 for a bad Request-Timeout.
    """
    if request.method != "POST" or not request.endpoint:
        return
    begun, asked = time.monotonic(), requested_seconds()
    most = min(asked, current_app.config["MODEL_WAIT"])
    with stage("wait"):
        try:
            channel.wait(Deadline.after(most, caller_left=caller_left()))
        except DeadlineError as error:
            raise NoModelError from error
    if asked < inf:  # the caller's time goes on
        left = max(asked - (time.monotonic() - begun), 1e-6)
        request.environ["HTTP_REQUEST_TIMEOUT"] = str(left)


def check_unless_away(client: ModelClient, *, timeout: float) -> None:
    """Raise as `model_client.describe` if a model server runs that cannot be used.

    Where none runs, a gateway that holds requests is ready: only a request starts the model.
    """
    try:
        model_client.describe(client, timeout=timeout)
    except grpc.RpcError:
        if is_connected(client.channel()):
            raise
