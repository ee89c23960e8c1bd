"""The REST face: JSON over HTTP, with TensorFlow Serving's paths, bodies and statuses."""

import logging
import math
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from http import HTTPStatus
from urllib.parse import unquote, urlsplit

import tensorflow as tf
import waitress
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest
from waitress import wasyncore

from model_server import errors, monitoring
from model_server.calls import Calls
from model_server.repository import Repository
from model_server.rest import requests, responses

LARGEST_BODY = 2**31 - 1  # bytes
LARGEST_UNZIPPED = 100 * 2**20  # bytes, of a body that comes compressed

_log = logging.getLogger(__name__)

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_RUN = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.I | re.A
)
_LOOK = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<method>metadata))?", re.I | re.A
)
_STATUSES = {
    tf.errors.CANCELLED: "499 Client Closed Request",
    tf.errors.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    tf.errors.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
    tf.errors.NOT_FOUND: HTTPStatus.NOT_FOUND,
    tf.errors.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    tf.errors.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    tf.errors.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    tf.errors.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    tf.errors.ABORTED: HTTPStatus.CONFLICT,
    tf.errors.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    tf.errors.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    tf.errors.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    tf.errors.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
}  # all others: 500
_JSON = ("Content-Type", "application/json")
_CORS = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "POST, GET"),
    ("Access-Control-Allow-Headers", "Content-Type"),
]


class RestApi:
    """A WSGI application: the calls under /v1/, and the page of metrics."""

    def __init__(
        self,
        repository: Repository,
        *,
        timeout: float = math.inf,
        metrics_path: str | None = None,
        cors: bool = False,
    ):
        """Answer for the models of a repository; they run for `timeout` seconds at most."""
        self._calls = Calls(repository)
        self._timeout = timeout
        self._metrics_path = metrics_path
        self._cors = _CORS if cors else []

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        """Answer one request."""
        status, headers, body = self._answer(environ)
        if isinstance(status, HTTPStatus):
            status = f"{status.value} {status.phrase}"
        content = body.encode(errors="surrogateescape")
        start_response(status, [*headers, ("Content-Length", str(len(content)))])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]

    def _answer(self, environ: dict) -> tuple[str | HTTPStatus, list[tuple[str, str]], str]:
        method, uri = environ["REQUEST_METHOD"], environ["REQUEST_URI"]
        try:
            parts = urlsplit(uri)
        except ValueError:  # as in http://[
            return HTTPStatus.BAD_REQUEST, [_JSON], responses.write_error("Malformed URI")
        if parts.path == self._metrics_path:
            return HTTPStatus.OK, [("Content-Type", "text/plain")], monitoring.page()
        if not parts.path.lower().startswith("/v1/"):
            return HTTPStatus.NOT_FOUND, [("Content-Type", "text/plain")], "Not Found\n"
        if method == "OPTIONS" and self._cors:
            return HTTPStatus.OK, self._cors, ""
        headers = [_JSON, *self._cors]
        try:
            path = parts._replace(scheme="", netloc="").geturl()
            return HTTPStatus.OK, headers, self._call(method, path, environ)
        except tf.errors.OpError as error:
            status = _STATUSES.get(error.error_code, HTTPStatus.INTERNAL_SERVER_ERROR)
            return status, headers, responses.write_error(error.message)
        except RecursionError:
            message = responses.write_error("JSON Parse error: Nested too deeply.")
            return HTTPStatus.BAD_REQUEST, headers, message
        except Exception:  # a mistake of ours ends this request, not the server
            _log.exception("%s %s could not be answered", method, uri)
            message = responses.write_error("Internal error; the server's log says more")
            return HTTPStatus.INTERNAL_SERVER_ERROR, headers, message

    def _call(self, method: str, path: str, environ: dict) -> str:
        """Return the JSON that answers a request. Raises tf.errors.OpError."""
        pattern = {"POST": _RUN, "GET": _LOOK}.get(method)
        found = pattern.fullmatch(path) if pattern else None
        if not found:
            raise errors.InvalidArgument(f"Malformed request: {method} {path}")
        spec = _model_spec(found)
        call = found["method"] or "status"
        if method == "GET" and not spec.name:
            raise errors.InvalidArgument("Missing model name in request.")
        with monitoring.request(spec.name, found["method"] or "", "REST"):
            if call == "status":
                return _message_json(self._calls.status(GetModelStatusRequest(model_spec=spec)))
            if call == "metadata":
                return self._metadata(spec)
            run = {"predict": self._predict, "classify": self._classify, "regress": self._regress}
            if call not in run:  # the path's case does not matter, but that of its verb
                raise errors.InvalidArgument(f"Malformed request: {method} {path}")
            return run[call](spec, requests.parse(_body(environ)))

    def _predict(self, spec: ModelSpec, document: dict) -> str:
        request = PredictRequest(model_spec=spec)
        requests.fill_signature(document, request)
        inputs = self._calls.signature_inputs(request.model_spec)
        in_rows = requests.fill_inputs(document, inputs, request)
        response = self._calls.predict(request, self._timeout)
        if in_rows:
            return responses.write_rows(response)
        return responses.write_columns(response)

    def _classify(self, spec: ModelSpec, document: dict) -> str:
        request = ClassificationRequest(model_spec=spec)
        requests.fill_signature(document, request)
        requests.fill_examples(document, request)
        return responses.write_classes(self._calls.classify(request, self._timeout).result)

    def _regress(self, spec: ModelSpec, document: dict) -> str:
        request = RegressionRequest(model_spec=spec)
        requests.fill_signature(document, request)
        requests.fill_examples(document, request)
        return responses.write_values(self._calls.regress(request, self._timeout).result)

    def _metadata(self, spec: ModelSpec) -> str:
        request = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
        response = self._calls.metadata(request)
        signatures = SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return (
            f'{{\n"model_spec":{_message_json(response.model_spec)},\n"metadata": '
            f'{{"signature_def": {_message_json(signatures)}}}\n}}\n'
        )


class RestServer:
    """Serves an application over HTTP from threads of its own."""

    def __init__(self, app: RestApi, host: str, port: int, *, threads: int | None = None):
        """Bind the address. Raises OSError when that cannot be done."""
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # not a line for each wait
        self._server = waitress.create_server(
            app,
            host=host,
            port=port,
            threads=threads or 4 * (os.cpu_count() or 1),
            ident=None,
            connection_limit=1000,
            asyncore_use_poll=True,
            max_request_body_size=LARGEST_BODY,
            recv_bytes=2**18,
            inbuf_overflow=LARGEST_BODY,  # no temporary files: there may be no place for them
            outbuf_overflow=LARGEST_BODY,
        )
        self.port: int = self._server.effective_port
        self._loop = threading.Thread(target=self._server.run, name="rest", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._loop.start()

    def stop(self, grace: float) -> None:
        """Stop to listen at once, and to answer when what has come in is answered, or is overdue.

        `grace` is how many seconds that may last.
        """
        deadline = time.monotonic() + grace
        listener, server = wasyncore.dispatcher, self._server
        self._in_loop(lambda: listener.close(server))
        while time.monotonic() < deadline and any(
            channel.requests or channel.request or channel.total_outbufs_len
            for channel in list(server.active_channels.values())
        ):
            time.sleep(0.02)
        self._in_loop(self._end_loop)
        self._loop.join(max(0.0, deadline - time.monotonic()) + 1)
        server.task_dispatcher.shutdown(timeout=1)
        server.trigger.close()

    def _end_loop(self) -> None:
        # The trigger is not closed here: the loop may be awake already, and do this before the
        # thread that asks for it has written to the trigger.
        self._server.trigger.del_channel()
        wasyncore.close_all(self._server._map)  # nothing is left to loop over

    def _in_loop(self, action: Callable[[], None]) -> None:
        self._server.trigger.pull_trigger(action)


def _model_spec(found: re.Match) -> ModelSpec:
    spec = ModelSpec(name=unquote(found["name"] or ""))
    if digits := found["version"]:
        if len(digits) > 19 or int(digits) >= 2**63:
            raise errors.InvalidArgument(f"Failed to convert version: {digits} to numeric.")
        spec.version.value = int(digits)
    if found["label"]:
        spec.version_label = unquote(found["label"])
    return spec


def _body(environ: dict) -> bytes:
    body = environ["wsgi.input"].read()
    if "gzip" not in environ.get("HTTP_CONTENT_ENCODING", ""):
        return body
    try:
        unzip = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        return unzip.decompress(body, LARGEST_UNZIPPED)
    except zlib.error as error:
        raise errors.InvalidArgument(f"Failed to uncompress the gzipped body: {error}") from error


def _message_json(message: Message) -> str:
    return MessageToJson(
        message,
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
        indent=1,
    )
