"""The HTTP port: TensorFlow Serving's REST API, and metrics for Prometheus."""

import base64
import binascii
import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import flask
import numpy as np
import tensorflow as tf
import waitress
from flask import Flask, Response
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.model_pb2 import ModelSpec
from waitress import wasyncore
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from model_server import errors, monitoring
from model_server.repository import Repository
from model_server.servable import check_inputs

LARGEST_BODY = 2**31 - 1  # bytes

_STATUSES = {
    tf.errors.INVALID_ARGUMENT: 400,
    tf.errors.FAILED_PRECONDITION: 400,
    tf.errors.NOT_FOUND: 404,
    tf.errors.DEADLINE_EXCEEDED: 504,
    tf.errors.RESOURCE_EXHAUSTED: 429,
    tf.errors.UNAVAILABLE: 503,
    tf.errors.UNIMPLEMENTED: 501,
}  # all others: 500


class _Name(BaseConverter):
    """Match the name of a model or a label; after a colon comes what to do with it."""

    regex = "[^/:]+"


def create_app(
    repository: Repository, *, timeout: float = math.inf, metrics_path: str | None = None
) -> Flask:
    """Return the REST API over a repository; a model runs for at most `timeout` seconds."""
    app = Flask(__name__, static_folder=None)
    app.json.sort_keys = False
    app.url_map.converters["name"] = _Name

    def status(**spec: Any) -> dict:
        return _to_dict(repository.status(_model_spec(**spec)))

    def metadata(**spec: Any) -> dict:
        with repository.lease(_model_spec(**spec)) as (version, servable):
            described = {"name": spec["name"], "signature_name": "", "version": str(version)}
            signatures = {"signature_def": _to_dict(servable.signatures)}
            return {"model_spec": described, "metadata": signatures}

    def predict(**spec: Any) -> dict:
        with (
            monitoring.request(spec["name"], "predict", "REST"),
            repository.lease(_model_spec(**spec)) as (_, servable),
        ):
            document = _parse(flask.request.get_data(cache=False))
            signature = servable.signature(document.get("signature_name", ""))
            if "instances" in document:
                inputs = _read_rows(document["instances"], signature)
                outputs = servable.run(signature, inputs, timeout=timeout)
                return {"predictions": _write_rows(outputs)}
            inputs = _read_columns(document["inputs"], signature)
            outputs = servable.run(signature, inputs, timeout=timeout)
            return {"outputs": _write_columns(outputs)}

    def metrics() -> Response:
        return Response(monitoring.page(), mimetype="text/plain")

    for version in ("", f"/versions/<int(max={2**63 - 1}):version>", "/labels/<name:label>"):
        model = f"/v1/models/<name:name>{version}"
        app.add_url_rule(model, view_func=status)
        app.add_url_rule(f"{model}/metadata", view_func=metadata)
        app.add_url_rule(f"{model}:predict", view_func=predict, methods=["POST"])
    if metrics_path:
        app.add_url_rule(metrics_path, view_func=metrics)
    app.register_error_handler(tf.errors.OpError, _refuse)
    app.register_error_handler(HTTPException, _refuse_path)
    return app


def _refuse(error: tf.errors.OpError) -> tuple[dict, int]:
    return {"error": error.message}, _STATUSES.get(error.error_code, 500)


def _refuse_path(error: HTTPException) -> tuple[dict, int]:
    """Answer 400 for a path or method that the API does not have, as TensorFlow Serving does."""
    unknown = error.code in (404, 405) and flask.request.path.startswith("/v1/")
    message = f"{flask.request.method} {flask.request.path}: {error.description}"
    return {"error": message}, 400 if unknown else error.code


def _model_spec(name: str, version: int | None = None, label: str | None = None) -> ModelSpec:
    number = None if version is None else {"value": version}
    return ModelSpec(name=name, version=number, version_label=label)


def _to_dict(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body, with bytes in place of {"b64": "…"}."""
    try:
        document = json.loads(body, object_hook=_decode_base64)
    except (ValueError, RecursionError) as error:
        raise errors.InvalidArgument(f"the body is no JSON: {error}") from error
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise errors.InvalidArgument(
            'the body must be an object with either "instances" or "inputs"'
        )
    if not isinstance(document.get("signature_name", ""), str):
        raise errors.InvalidArgument('"signature_name" must be a string')
    return document


def _decode_base64(value: dict[str, Any]) -> dict[str, Any] | bytes:
    if value.keys() != {"b64"}:
        return value
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (TypeError, binascii.Error) as error:
        raise ValueError(f"b64 holds no base64: {error}") from error


def _read_rows(rows: Any, signature: SignatureDef) -> dict[str, np.ndarray]:
    """Return the inputs of `instances`: one value a row, or an object with each input's value."""
    if not isinstance(rows, list) or not rows:
        raise errors.InvalidArgument('"instances" must be a list with at least one row')
    if not any(isinstance(row, dict) for row in rows):
        return _read_columns(rows, signature)
    if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise errors.InvalidArgument('the rows of "instances" must all name the same inputs')
    return _read_columns({alias: [row[alias] for row in rows] for alias in rows[0]}, signature)


def _read_columns(columns: Any, signature: SignatureDef) -> dict[str, np.ndarray]:
    """Return the inputs of `inputs`: the value of the only input, or an object with each one's."""
    if not isinstance(columns, dict):
        if len(signature.inputs) != 1:
            names = ", ".join(sorted(signature.inputs)) or "none"
            raise errors.InvalidArgument(f"name each input; the signature has: {names}")
        columns = {next(iter(signature.inputs)): columns}
    check_inputs(signature, columns)
    arrays = {}
    for alias, value in columns.items():
        try:
            arrays[alias] = _to_array(value, tf.as_dtype(signature.inputs[alias].dtype))
        except (ValueError, ArithmeticError) as error:
            raise errors.InvalidArgument(f'input "{alias}": {error}') from error
    return arrays


def _to_array(value: Any, dtype: tf.DType) -> np.ndarray:
    """Convert nested lists. Raises ValueError or ArithmeticError where they do not fit."""
    if dtype == tf.string:
        array = np.array(value, object)
        if not all(isinstance(item, (str, bytes)) for item in array.flat):
            raise ValueError('expected strings or {"b64": "…"}, in lists of equal length')
        items = [item.encode() if isinstance(item, str) else item for item in array.flat]
        return np.array(items, object).reshape(array.shape)
    array = np.array(value)
    kinds = "b" if dtype.is_bool else "iu" if dtype.is_integer else "iuf"
    if array.size and array.dtype.kind not in kinds:
        raise ValueError(f"expected {dtype.name}, got values of another type")
    with np.errstate(over="raise"):
        converted = array.astype(dtype.as_numpy_dtype)
    if dtype.is_integer and (converted != array).any():
        raise ValueError(f"a value is outside the range of {dtype.name}")
    return converted


def _write_rows(outputs: Mapping[str, np.ndarray]) -> list[Any]:
    """Return a prediction for each row: a value, or an object where there are several outputs."""
    sizes = {array.shape[:1] for array in outputs.values()}
    if len(sizes) > 1 or () in sizes:
        shapes = ", ".join(f"{alias} {array.shape}" for alias, array in outputs.items())
        raise errors.InvalidArgument(
            f'the outputs have no common rows ({shapes}); send "inputs" in place of "instances"'
        )
    columns = [_to_json(alias, array) for alias, array in outputs.items()]
    if len(columns) == 1:
        return columns[0]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _write_columns(outputs: Mapping[str, np.ndarray]) -> Any:
    """Return the outputs as they are: alone, or as members of an object where there are several."""
    columns = {alias: _to_json(alias, array) for alias, array in outputs.items()}
    return next(iter(columns.values())) if len(columns) == 1 else columns


def _to_json(alias: str, array: np.ndarray) -> Any:
    """Return nested lists. Bytes are text, or base64 where the output's name ends in _bytes."""
    if array.dtype == object:
        items = [
            {"b64": base64.b64encode(item).decode()}
            if alias.endswith("_bytes")
            else item.decode(errors="replace")
            for item in array.flat
        ]
        return np.array(items, object).reshape(array.shape).tolist()
    if array.dtype.kind == "c":
        raise errors.Unimplemented(f'output "{alias}" is complex, which JSON has no number for')
    if tf.as_dtype(array.dtype).is_floating and array.dtype.itemsize < 8:
        array = array.astype(np.float32).astype(str).astype(float)  # 0.1, not 0.10000000149011612
    return array.tolist()


class RestServer:
    """Serves an application over HTTP from its own threads, until the process ends."""

    def __init__(self, app: Flask, host: str, port: int, *, threads: int | None = None):
        """Bind the address. Raises OSError when that cannot be done."""
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # no line for each wait
        self._server = waitress.create_server(
            app,
            sockets=[socket.create_server((host, port))],  # one, where a host has two addresses
            threads=threads or 4 * (os.cpu_count() or 1),
            connection_limit=1000,
            asyncore_use_poll=True,
            max_request_body_size=LARGEST_BODY,
            recv_bytes=2**18,
            inbuf_overflow=LARGEST_BODY,  # no temporary files: the file system may be read-only
            outbuf_overflow=LARGEST_BODY,
        )

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._server.run, name="rest", daemon=True).start()

    def stop(self, grace: float) -> None:
        """Stop listening; return when all requests are answered, or after `grace` seconds.

        The server's loop goes on. It ends with the process, so nothing has to be closed in order.
        """
        server, deadline = self._server, time.monotonic() + grace
        server.trigger.pull_trigger(lambda: wasyncore.dispatcher.close(server))
        while time.monotonic() < deadline and (
            server.accepting
            or any(
                channel.requests or channel.request or channel.total_outbufs_len
                for channel in list(server.active_channels.values())
            )
        ):
            time.sleep(0.02)
