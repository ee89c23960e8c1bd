"""The REST face answers as TensorFlow Serving's: paths, JSON to the byte, statuses, metrics."""

import base64
import gzip
import http.client
import json
import math
import os
import shutil
import signal
import socket
import threading
import time
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutorial.processes import free_port, wait_until

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

from tensorflow.core.framework.tensor_pb2 import TensorProto  # noqa: E402
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo  # noqa: E402
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse  # noqa: E402

from model_server import monitoring  # noqa: E402
from model_server.repository import Repository  # noqa: E402
from model_server.rest import requests as rest_requests  # noqa: E402
from model_server.rest import responses as rest_responses  # noqa: E402
from model_server.rest.server import RestApi, RestServer  # noqa: E402
from model_server.versions import Model  # noqa: E402
from tests import saved_models  # noqa: E402  (needs TensorFlow)
from tests.integration.test_model_server import ended_in_any_case, start  # noqa: E402

SECONDS = 10
METRICS = "/monitoring/prometheus/metrics"


class Client:
    """One connection, kept open: what follows a bad request is asked on it too."""

    def __init__(self, port):
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)

    def ask(self, method, path, body=None, headers=()):
        self._connection.request(method, path, body, dict(headers))
        response = self._connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()

    def get(self, path):
        status, _, body = self.ask("GET", path)
        return status, body.decode()

    def post(self, path, body, headers=()):
        body = body if isinstance(body, (str, bytes)) else json.dumps(body)
        status, _, answer = self.ask("POST", path, body, headers)
        return status, answer.decode(errors="surrogateescape")

    def close(self):
        self._connection.close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """`half` in version 123, `scale` in version 7, and `a b`, a name that has to be quoted."""
    base = tmp_path_factory.mktemp("served")
    saved_models.save_half_plus_two(base / "half" / "123")
    saved_models.save_scale(base / "scale" / "7")
    shutil.copytree(base / "half", base / "a b")
    repository = Repository(Model(name, base / name) for name in ("half", "scale", "a b"))
    repository.poll()
    yield repository
    repository.close()


@pytest.fixture(scope="module")
def port(repository):
    server = RestServer(RestApi(repository, metrics_path=METRICS), "127.0.0.1", 0)
    server.start()
    yield server.port
    server.stop(SECONDS)


@pytest.fixture
def client(port):
    client = Client(port)
    yield client
    client.close()


def refused(answer, status=400):
    """Check a refusal's status and layout; return its message."""
    assert answer[0] == status, answer
    message = json.loads(answer[1])["error"]
    assert answer[1].startswith('{\n    "error": "') and answer[1].endswith('"\n}')
    return message


# Predict


@pytest.mark.parametrize("path", ["half", "half/versions/123", "a%20b", quote("half")])
def test_rows_in_rows_out(client, path):
    body = {"signature_name": "serving_default", "instances": [2.0, 3.0, 4.5]}
    answer = client.post(f"/v1/models/{path}:predict", body)
    assert answer == (200, '{\n    "predictions": [3.0, 3.5, 4.25\n    ]\n}')


def test_columns_in_columns_out(client):
    answer = client.post("/v1/models/half:predict", {"inputs": [[2.0], [3]]})
    assert answer == (
        200,
        '{\n    "outputs": [\n        [\n            3.0\n        ],\n        [\n            3.5\n'
        "        ]\n    ]\n}",
    )


def test_many_outputs_are_named(client):
    rows = {"instances": [{"x": [1, 2, 3]}, {"x": [4, 5, 6]}]}
    assert client.post("/v1/models/scale:predict", rows) == (
        200,
        '{\n    "predictions": [\n        {\n            "scaled": [2.0, 4.0, 6.0],\n'
        '            "total": 6.0\n        },\n        {\n'
        '            "scaled": [8.0, 10.0, 12.0],\n            "total": 15.0\n'
        "        }\n    ]\n}",
    )
    status, answer = client.post("/v1/models/scale:predict", {"inputs": {"x": [[1, 2, 3]]}})
    assert status == 200
    assert json.loads(answer) == {"outputs": {"scaled": [[2.0, 4.0, 6.0]], "total": [6.0]}}


@pytest.mark.parametrize("encoded", ["_wA=", "/wA=", "/wA"])
def test_bytes_come_as_base64(client, encoded):
    body = {"signature_name": "echo_string", "instances": [{"b64": encoded}, "ä"]}
    status, answer = client.post("/v1/models/scale:predict", body)
    if encoded == "_wA=":
        assert refused((status, answer)).endswith("Unable to base64 decode")
    else:
        assert answer == '{\n    "predictions": ["\udcff\\u0000", "ä"\n    ]\n}'


def test_scalar_and_nested_inputs(client):
    body = {"signature_name": "count", "inputs": 3}
    assert client.post("/v1/models/scale:predict", body) == (200, '{\n    "outputs": 3\n}')
    body = {"signature_name": "echo_int64", "inputs": [[[1], [2]], [[3], [-4]]]}
    status, answer = client.post("/v1/models/scale:predict", body)
    assert (status, json.loads(answer)) == (200, {"outputs": body["inputs"]})
    body = {"signature_name": "echo_float32", "inputs": []}
    assert client.post("/v1/models/scale:predict", body) == (200, '{\n    "outputs": []\n}')


@pytest.mark.parametrize(
    ("dtype", "sent", "received"),
    [
        ("float32", "[0.1, 1e-7, 16777215, 123456789.0]", "0.1, 1e-07, 16777215.0, 123456792.0"),
        ("float32", "[NaN, Infinity, -Infinity]", "NaN, Infinity, -Infinity"),
        ("float32", "[0.2, -0.0, 9000000]", "0.2, -0.0, 9e+06"),
        ("float64", "[0.1, 0.1234567890123]", "0.1, 0.12345678901230001"),
        ("int8", "[1, 300, -129]", "1, 44, 127"),  # wraps, as TensorFlow Serving's does
        ("int64", "[9223372036854775807, -9223372036854775808]", None),
        ("uint64", "[18446744073709551615]", None),
        ("uint32", "[4294967295]", None),
        ("bool", "[true, false]", None),
    ],
)
def test_numbers(client, dtype, sent, received):
    body = f'{{"signature_name": "echo_{dtype}", "instances": {sent}}}'
    expected = f'{{\n    "predictions": [{received or sent[1:-1]}\n    ]\n}}'
    assert client.post("/v1/models/scale:predict", body) == (200, expected)


def test_compressed_body(client):
    body = gzip.compress(b'{"instances": [2.0]}')
    headers = {"Content-Encoding": "gzip"}
    status, answer = client.post("/v1/models/half:predict", body, headers)
    assert (status, json.loads(answer)) == (200, {"predictions": [3.0]})
    refused(client.post("/v1/models/half:predict", b"no gzip", headers))


def test_image_sized_tensor(client):
    image = np.random.default_rng(0).random((1, 299, 299, 3), np.float32)
    body = json.dumps({"signature_name": "echo_float32", "instances": image.tolist()})
    status, answer = client.post("/v1/models/scale:predict", body)
    assert status == 200
    assert np.array_equal(np.float32(json.loads(answer)["predictions"]), image)


# Predict: refusals


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        ("half", "", "JSON Parse error: The document is empty. at offset: 0"),
        ("half", "instances = [1, 2]", "JSON Parse error: Invalid value. at offset: 0"),
        ("half", '{"instances": [1, 2}', "JSON Parse error: Missing a comma"),
        ("half", '{"instances": [1]} x', "JSON Parse error: The document root must not be"),
        ("half", '{"instances": [1e999]}', "JSON Parse error: Number too big to be stored"),
        ("half", f'{{"instances": [{"9" * 5000}]}}', "JSON Parse error: Number too big"),
        ("half", '{"inputs": ' + "[" * 100_000, "JSON Parse error: Nested too deeply."),
        ("half", b'{"inst\xff\x00', "JSON Parse error: "),
        ("half", "[1]", "JSON Value: [\n    1\n] Is not object"),
        ("half", {"x": 1}, "Missing 'inputs' or 'instances' key"),
        ("half", {"instances": 1}, "JSON Value: {\n    \"instances\": 1\n} Excepting 'instances'"),
        ("half", {"instances": []}, 'JSON Value: {\n    "instances": []\n} No values in'),
        ("half", {"instances": [1], "inputs": [1]}, "JSON Value: {"),
        (
            "half",
            {"signature_name": 100},
            'JSON Value: {\n    "signature_name": 100\n} not formatted correctly. '
            "'signature_name' key must be a string value.",
        ),
        (
            "half",
            {"signature_name": "no", "instances": [1]},
            'Serving signature name: "no" not found in signature def',
        ),
        (
            "half",
            {"signature_name": "\ud800", "instances": [1]},
            'Serving signature name: "?" not found in signature def',
        ),
        (
            "half",
            {"instances": ["x", "y"]},
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value:"
            ' "x" Type: String is not of expected type: float',
        ),
        (
            "half",
            {"instances": [[1, 2], [3]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
            "tensor size: 2 but got: 1",
        ),
        (
            "half",
            {"instances": [[1, 2], [[1, 2]]]},
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting "
            "shape [2] but got: [1,2]",
        ),
        (
            "half",
            {"inputs": [[1], [2, 3]]},
            "Encountered list at unexpected size: 2 at level: 1 ex",
        ),
        ("half", {"inputs": [1, [2]]}, "Encountered list at unexpected level: 1 expected < 1"),
        (
            "half",
            {"inputs": [[1], 2]},
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            "half",
            {"instances": [{"x": 1}, 2]},
            "Expecting object but got list at item 1 of input list",
        ),
        (
            "half",
            {"instances": [1, {"x": 2}]},
            "Expecting value/list but got object at item 1 of input list",
        ),
        (
            "half",
            {"instances": [{"z": 1}]},
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: "
            "JSON object: does not have named input: z",
        ),
        (
            "half",
            {"instances": [{}]},
            "Failed to process element: 0 of 'instances' list. JSON object: {} must only have "
            "keys: x",
        ),
        ("half", {"inputs": {"z": 1}}, "Missing named input: x in 'inputs' object."),
        (
            "half",
            {"instances": [16777216]},
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Cannot "
            "convert JSON value: 16777216 to float without loss of precision.",
        ),
        ("half", {"instances": [1e39]}, "Failed to process element: 0 of 'instances' list. Err"),
        ("half", {"inputs": True}, "JSON Value: true Type: True is not of expected type: float"),
        ("half", {"inputs": None}, "JSON Value: null Type: Null is not of expected type: float"),
        ("half", {"inputs": {"x": {"b64": "AA=="}}}, 'JSON Value: {\n    "b64": "AA=="\n} Type: '),
        (
            "scale",
            {"signature_name": "count", "inputs": 2147483648},
            "JSON Value: 2147483648 Type: Number is not of expected type: int32",
        ),
        (
            "scale",
            {"signature_name": "count", "inputs": 1.0},
            "JSON Value: 1.0 Type: Number is not of expected type: int32",
        ),
        (
            "scale",
            {"signature_name": "echo_string", "inputs": {"value": {"b64": 1}}},
            'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data',
        ),
        (
            "scale",
            {"signature_name": "echo_string", "inputs": "\ud800"},
            "JSON Parse error: The surrogate pair in string is invalid.",
        ),
        (
            "scale",
            {"signature_name": "count", "instances": [3]},
            "",  # rank 1 is not what the loop's condition takes
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_prediction(client, model, body, message):
    found = refused(client.post(f"/v1/models/{model}:predict", body))
    assert found.startswith(message)
    assert len(found) < 2 * rest_requests.LONGEST_QUOTE
    assert client.post("/v1/models/half:predict", {"instances": [2.0]})[0] == 200


def test_dtype_without_json(client):
    body = {"signature_name": "echo_float16", "inputs": 1.0}
    message = refused(client.post("/v1/models/scale:predict", body), 501)
    assert message == "Conversion of JSON Value: 1.0 to type: half"


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v1/foo", 400, "Malformed request: GET /v1/foo"),
        ("POST", "/v1/models", 400, "Malformed request: POST /v1/models"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/half:predict", 400, "Malformed request: GET /v1/models/half:predict"),
        ("PUT", "/v1/models/half:predict", 400, "Malformed request: PUT /v1/models/half:predict"),
        ("POST", "/v1/models/half:PREDICT", 400, "Malformed request: POST"),
        ("POST", "/v1/models/half:predict?x=1", 400, "Malformed request: POST"),
        ("POST", "/v1/models/half/versions/HELLO:predict", 400, "Malformed request: POST"),
        ("POST", "/v1/models/half/versions/1/labels/a:predict", 400, "Malformed request: POST"),
        (
            "POST",
            f"/v1/models/half/versions/{2**64}:predict",
            400,
            f"Failed to convert version: {2**64} to numeric.",
        ),
        (
            "POST",
            f"/v1/models/half/versions/{'1' * 5000}:predict",
            400,
            "Failed to convert version: 111",
        ),
        ("POST", "/v1/models/no:predict", 404, "Servable not found for request: Latest(no)"),
        (
            "POST",
            "/v1/models/half/versions/50:predict",
            404,
            "Servable not found for request: Specific(half, 50)",
        ),
        (
            "POST",
            "/v1/models/half/labels/no:predict",
            400,
            "Unrecognized servable version label: no",
        ),
        ("GET", "/v1/models/no", 404, "Could not find any versions of model no"),
        ("GET", "/v1/models/no/metadata", 404, "Servable not found for request: Latest(no)"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_path(client, method, path, status, message):
    body = '{"instances": [1.0]}' if method == "POST" else None
    found, headers, answer = client.ask(method, path, body)
    assert refused((found, answer.decode()), status).startswith(message)
    assert headers["Content-Type"] == "application/json"


def test_other_paths_are_not_found(client):
    for path in ("/", "/v2/models/half", "/index.html"):
        assert client.get(path)[0] == 404


@pytest.mark.parametrize(
    "sent",
    [
        bytes(range(256)) * 16 + b"\r\n\r\n",
        b"POST /v1/models/half:predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/models/half:predict HTTP/1.1\r\nContent-Length: 100\r\n\r\n{",  # and no more
        b"GET http://[/v1/models/half HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
)
def test_garbage_on_the_port(client, sent):
    with socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1000)
    assert not answer or answer.split()[1] == b"400"
    assert client.post("/v1/models/half:predict", {"instances": [2.0]})[0] == 200


# Classify, Regress


def test_classify_and_regress(client):
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}, {"x": [20.0]}]}
    answer = client.post("/v1/models/half:classify", body)
    assert answer == (200, '{\n    "results": [[["", 3.0]], [["", 12.0]]\n    ]\n}')
    body["signature_name"] = "regress_x_to_y"
    answer = client.post("/v1/models/half:regress", body)
    assert answer == (200, '{\n    "results": [3.0, 12.0]\n}')


def test_context_and_bytes_in_examples(client):
    label = base64.b64encode(b"shared").decode()
    body = {
        "signature_name": "classify_labels",
        "context": {"x": 2.0, "label": {"b64": label}},
        "examples": [{}, {"label": "own"}],
    }
    status, answer = client.post("/v1/models/half:classify", body)
    assert (status, json.loads(answer)["results"]) == (
        200,
        [[["shared", 3.0], ["SHARED", -3.0]], [["own", 3.0], ["OWN", -3.0]]],
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {},
            "} When method is classify, key 'examples' is expected and was not found",
        ),
        ({"examples": {}}, "} Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "} 'examples' value is an empty array"),
        ({"examples": [1]}, "Example must be JSON object but got JSON Number"),
        ({"examples": [{}], "context": []}, "Example must be JSON object but got JSON Array"),
        (
            {"examples": [{"x": None}]},
            "Feature: x has element with unexpected JSON type: Null",
        ),
        (
            {"examples": [{"x": [1.0, "a"]}]},
            "Unexpected element type in feature: x expecting type: float",
        ),
        ({"examples": [{"x": 1e39}]}, "Cannot convert JSON value: 1e+39 to float without loss"),
        (
            {"examples": [{"x": 2**63}]},
            "Feature: x has uint64 element. Only int64 is supported.",
        ),
        ({"examples": [{"x": 2}]}, "Name: <unknown>, Key: x, Index: 0.  Data types don't match."),
        ({"examples": [{"\ud800": 2}]}, "Name: <unknown>, Feature: x (data type: float) is req"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refused_examples(client, body, message):
    body["signature_name"] = "classify_x_to_y"
    assert message in refused(client.post("/v1/models/half:classify", body))


# Status, metadata


@pytest.mark.parametrize("path", ["half", "half/versions/123", "HALF"])
def test_status(client, path):
    answer = client.get(f"/v1/Models/{path}")
    if path == "HALF":
        refused(answer, 404)
        return
    assert answer == (
        200,
        '{\n "model_version_status": [\n  {\n   "version": "123",\n   "state": "AVAILABLE",\n'
        '   "status": {\n    "error_code": "OK",\n    "error_message": ""\n   }\n  }\n ]\n}',
    )


def test_metadata(client):
    status, answer = client.get("/v1/models/half/metadata")
    assert status == 200
    document = json.loads(answer)
    assert document["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    signatures = document["metadata"]["signature_def"]["signature_def"]
    dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    shape = {"dim": dims, "unknown_rank": False}
    default = signatures["serving_default"]
    assert default["inputs"] == {"x": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}}
    assert default["method_name"] == "tensorflow/serving/predict"
    document = json.loads(client.get("/v1/models/scale/versions/7/metadata")[1])
    signatures = document["metadata"]["signature_def"]["signature_def"]
    unknown = {"dim": [], "unknown_rank": True}
    assert signatures["echo_bool"]["inputs"]["value"]["tensor_shape"] == unknown


# Timeout, CORS, stopping


def test_timeout(repository):
    server = RestServer(RestApi(repository, timeout=0.2), "127.0.0.1", 0)
    server.start()
    client = Client(server.port)
    body = {"signature_name": "count", "inputs": 2_000_000}
    refused(client.post("/v1/models/scale:predict", body), 504)
    client.close()
    server.stop(SECONDS)


def test_cors(repository, client):
    server = RestServer(RestApi(repository, cors=True), "127.0.0.1", 0)
    server.start()
    allowing = Client(server.port)
    for method, body in (("OPTIONS", None), ("POST", '{"instances": [1.0]}')):
        status, headers, _ = allowing.ask(method, "/v1/models/half:predict", body)
        assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
        assert headers["Access-Control-Allow-Methods"] == "POST, GET"
    allowing.close()
    server.stop(SECONDS)
    status, headers, _ = client.ask("OPTIONS", "/v1/models/half:predict")
    assert (status, "Access-Control-Allow-Origin" in headers) == (400, False)


def requests_under_way(server):
    return sum(len(channel.requests) for channel in list(server._server.active_channels.values()))


def test_stopping_finishes_what_is_in_flight(repository):
    server = RestServer(RestApi(repository), "127.0.0.1", 0)
    server.start()
    idle, busy, answers = Client(server.port), Client(server.port), []
    idle.get("/v1/models/half")  # and keeps its connection
    wait_until(lambda: not requests_under_way(server), timeout=SECONDS, what="the answer's end")
    body = {"signature_name": "count", "inputs": 100_000}
    thread = threading.Thread(
        target=lambda: answers.append(busy.post("/v1/models/scale:predict", body))
    )
    thread.start()
    wait_until(
        lambda: requests_under_way(server), timeout=SECONDS, interval=0.001, what="the request"
    )
    server.stop(SECONDS)
    thread.join(SECONDS)
    assert [(status, json.loads(text)) for status, text in answers] == [(200, {"outputs": 100_000})]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


def test_stopping_bears_that_another_thread_wakes_the_loop_first(repository, monkeypatch):
    server = RestServer(RestApi(repository), "127.0.0.1", 0)
    server.start()
    wake = server._server.trigger._physical_pull

    def wake_late():
        wake()  # as another thread would, and the loop does what was asked
        time.sleep(0.1)
        wake()

    monkeypatch.setattr(server._server.trigger, "_physical_pull", wake_late)
    server.stop(SECONDS)
    assert not server._loop.is_alive()


def test_process_serves_both_faces_until_sigterm(tmp_path):
    saved_models.save_scale(tmp_path / "scale" / "1")
    config = tmp_path / "monitoring.config"
    config.write_text("prometheus_config { enable: true }")
    port = free_port()
    process = start(
        "--port=0",
        f"--rest_api_port={port}",
        "--rest_api_num_threads=2",
        "--rest_api_timeout_in_ms=5000",
        "--model_name=scale",
        f"--model_base_path={tmp_path / 'scale'}",
        f"--monitoring_config_file={config}",
    )
    with ended_in_any_case(process):
        assert process.stdout.readline().startswith("Running gRPC ModelServer at 0.0.0.0:")
        assert process.stdout.readline() == f"Exporting HTTP/REST API at:0.0.0.0:{port} ...\n"
        client, busy, answers = Client(port), Client(port), []
        assert metric(client, ":tensorflow:core:graph_runs{}") == 0
        body = {"signature_name": "count", "inputs": 100_000}
        thread = threading.Thread(
            target=lambda: answers.append(busy.post("/v1/models/scale:predict", body))
        )
        thread.start()
        client.post("/v1/models/scale:predict", {"signature_name": "count", "inputs": 1})
        assert not answers  # or the test shows nothing
        process.send_signal(signal.SIGTERM)
        thread.join(SECONDS)
        assert answers == [(200, '{\n    "outputs": 100000\n}')]
        assert process.wait(SECONDS) == 0
        assert len(process.stderr.read().splitlines()) == 2  # loaded, ending


# Metrics


def metric(client, line):
    status, page = client.get(METRICS)
    assert status == 200
    values = [found.rsplit(" ", 1)[1] for found in page.splitlines() if found.startswith(line)]
    return float(values[0]) if values else 0.0


def test_requests_are_counted_and_timed(client):
    ok = ':tensorflow:serving:request_count{model_name="half",status="OK"}'
    bad = ':tensorflow:serving:request_count{model_name="half",status="INVALID_ARGUMENT"}'
    timed = (
        ":tensorflow:serving:request_latency_count"
        '{model_name="half",API="predict",entrypoint="REST"}'
    )
    runtime = (
        ':tensorflow:serving:runtime_latency_count{model_name="half",API="Predict",runtime="TF1"}'
    )
    names = ok, bad, timed, runtime
    before = [metric(client, name) for name in names]
    client.post("/v1/models/half:predict", {"instances": [1.0]})
    client.post("/v1/models/half:predict", {})
    assert [metric(client, name) for name in names] == [value + 1 for value in before]


def test_metrics_page_is_laid_out_as_tensorflow_servings(client):
    client.post("/v1/models/half:predict", {"instances": [1.0]})
    examples = {"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}] * 3}
    client.post("/v1/models/half:regress", examples)
    status, headers, body = client.ask("GET", METRICS)
    assert (status, headers["Content-Type"]) == (200, "text/plain")
    lines = body.decode().splitlines()
    for line in (
        "# TYPE :tensorflow:serving:request_count counter",
        "# TYPE :tensorflow:serving:request_latency histogram",
        "# TYPE :tensorflow:serving:request_example_count_total counter",
        "# TYPE :tensorflow:serving:model_warmup_latency histogram",
        "# TYPE :tensorflow:cc:saved_model:load_latency counter",
        "# TYPE :tensorflow:core:graph_runs counter",
    ):
        assert lines.count(line) == 1, line
    prefix = ':tensorflow:serving:request_latency_bucket{model_name="half",API="predict",'
    limits = [line.split('le="')[1].split('"')[0] for line in lines if line.startswith(prefix)]
    assert [*limits[:5], *limits[-2:]] == [
        "10",
        "18",
        "32.4",
        "58.32",
        "104.976",
        "1.47476e+09",
        "+Inf",
    ]
    assert any(
        line.startswith(':tensorflow:cc:saved_model:load_attempt_count{model_path="/')
        and line.endswith('/half/123",status="success"} 1')
        for line in lines
    )
    assert metric(client, ":tensorflow:core:graph_runs{}") > 0
    assert metric(client, ':tensorflow:serving:request_example_count_total{model="half"}') >= 3
    assert metric(client, ':tensorflow:serving:request_example_counts_bucket{model="half",le="4"}')
    assert not any("_created" in line for line in lines)


def test_invented_model_names_do_not_fill_the_memory(client, monkeypatch):
    monkeypatch.setattr(monitoring, "MOST_NAMES", 1)
    for name in ("one", "two", "three"):
        client.post(f"/v1/models/invented-{name}:predict", {"instances": [1]})
    assert metric(client, ':tensorflow:serving:request_count{model_name="(others)",status="NOT_')
    assert "invented-three" not in client.get(METRICS)[1]


def test_metrics_are_served_only_where_they_are_wanted(repository, tmp_path):
    file = tmp_path / "monitoring.config"
    for text, path in (
        ("prometheus_config { enable: true }", METRICS),
        ('prometheus_config: {\n enable: true,\n path: "/metrics"\n}', "/metrics"),
        ('prometheus_config { path: "/metrics" }', None),
        ("", None),
    ):
        file.write_text(text)
        assert monitoring.read_path(file) == path
    for wrong in ("prometheus_config { enabled: true }", "{"):
        file.write_text(wrong)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"serving\.MonitoringConfig"):
            monitoring.read_path(file)
    server = RestServer(RestApi(repository), "127.0.0.1", 0)
    server.start()
    client = Client(server.port)
    assert client.get(METRICS)[0] == 404
    client.close()
    server.stop(SECONDS)


# Fuzz

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(
    st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"]), JSON
)


@settings(max_examples=150, deadline=None)
@given(
    body=st.binary() | DOCUMENTS.map(json.dumps) | JSON.map(json.dumps),
    call=st.sampled_from(["half:predict", "scale:predict", "half:classify", "half:regress"]),
)
def test_any_body_is_answered(port, body, call):
    client = Client(port)
    status, answer = client.post(f"/v1/models/{call}", body)
    assert status in (200, 400, 501)
    if status != 200:
        refused((status, answer), status)
    client.close()


@settings(max_examples=200, deadline=None)
@given(
    value=st.recursive(
        st.floats(width=32), lambda inner: st.lists(inner, min_size=2, max_size=2), max_leaves=8
    )
)
def test_floats_survive_the_round_trip(value):
    request = PredictRequest()
    document = rest_requests.parse(json.dumps({"inputs": value}).encode())
    try:
        rest_requests.fill_inputs(document, {"x": TensorInfo(dtype=1)}, request)
    except tf.errors.InvalidArgumentError:
        with pytest.raises(ValueError):  # ragged
            np.array(value, np.float32)
        return
    response = PredictResponse(outputs=request.inputs)
    written = json.loads(rest_responses.write_columns(response))["outputs"]
    assert np.array_equal(np.float32(written), np.float32(value), equal_nan=True)


def test_rows_need_outputs_batched_alike():
    def output(*shape):
        proto = TensorProto(dtype=1)
        proto.tensor_shape.SetInParent()
        for size in shape:
            proto.tensor_shape.dim.add(size=size)
        proto.float_val.extend([1.0] * math.prod(shape))
        return proto

    for outputs, message in (
        ({"a": output()}, "Tensor name: a has no shape information "),
        ({"a": output(0)}, "Tensor name: a has invalid batch size: 0"),
        ({"a": output(1), "b": output(2)}, "Tensor name: b has inconsistent batch size: 2 exp"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            rest_responses.write_rows(PredictResponse(outputs=outputs))


def test_bytes_outputs_are_written_as_base64():
    proto = TensorProto(dtype=7, string_val=[b"\xff", b"a"])
    proto.tensor_shape.dim.add(size=2)
    text = rest_responses.write_rows(PredictResponse(outputs={"image_bytes": proto}))
    assert json.loads(text) == {"predictions": [{"b64": "/w=="}, {"b64": "YQ=="}]}
