"""The model server over HTTP: predictions, status, metadata, statuses of refusals, metrics."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import requests
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from model_server import monitoring, rest
from model_server.tuning import available_cpus
from tests import saved_models
from tests.serving import SECONDS, client_of, predict_request, serving, started
from tutorial.processes import free_port

METRICS = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`half` in version 123, `scale` in version 7, and `a b`, a name that has to be quoted."""
    base = tmp_path_factory.mktemp("served")
    saved_models.save_half_plus_two(base / "half" / "123")
    saved_models.save_scale(base / "scale" / "7", echoes=True)
    saved_models.save_half_plus_two(base / "a b" / "1")
    with serving(base, "half", "scale", "a b") as served:
        label = 'version_labels { key: "best" value: 123 }'
        served.repository.reload(served.config(half=label, scale="", **{"a b": ""}))
        yield served


@pytest.fixture(scope="module")
def client(served):
    return rest.create_app(served.repository, metrics_path=METRICS).test_client()


def predict(client, body, model="half"):
    """Return the status and the JSON that answers a body: text, bytes, or an object."""
    options = {"json": body} if isinstance(body, (dict, list)) else {"data": body}
    answer = client.post(f"/v1/models/{model}:predict", **options)
    return answer.status_code, answer.json


def assert_refused(answer, code, *named):
    found, document = answer
    assert found == code, document
    assert list(document) == ["error"]
    for text in named:
        assert text in document["error"]


# Predict


@pytest.mark.parametrize("model", ["half", "half/versions/123", "half/labels/best", "a%20b"])
def test_rows_in_rows_out(client, model):
    body = {"signature_name": "serving_default", "instances": [[2.0], [3], [4.5]]}
    assert predict(client, body, model) == (200, {"predictions": [[3.0], [3.5], [4.25]]})
    plain = {"instances": [2.0, 3.0, 4.5]}  # as in TensorFlow Serving's documentation
    assert predict(client, plain, model) == (200, {"predictions": [3.0, 3.5, 4.25]})


def test_columns_in_columns_out(client):
    assert predict(client, {"inputs": [[2.0], [3]]}) == (200, {"outputs": [[3.0], [3.5]]})
    assert predict(client, {"inputs": {"x": [[2.0]]}}) == (200, {"outputs": [[3.0]]})


def test_several_outputs_are_named(client):
    rows = {"instances": [{"x": [1, 2, 3]}, {"x": [4, 5, 6]}]}
    predictions = [
        {"scaled": [2.0, 4.0, 6.0], "total": 6.0},
        {"scaled": [8.0, 10.0, 12.0], "total": 15.0},
    ]
    assert predict(client, rows, "scale") == (200, {"predictions": predictions})
    outputs = {"scaled": [[2.0, 4.0, 6.0]], "total": [6.0]}
    assert predict(client, {"inputs": [[1, 2, 3]]}, "scale") == (200, {"outputs": outputs})


def echo(client, dtype, values):
    body = f'{{"signature_name": "echo_{dtype}", "inputs": {values}}}'
    return predict(client, body, "scale")


def test_bytes_come_as_base64(client):
    for sent, received in (('{"b64": "w6Q="}', "ä"), ('"ä"', "ä"), ('[[{"b64": ""}]]', [[""]])):
        assert echo(client, "string", sent) == (200, {"outputs": received})
    for wrong in ('{"b64": "_wA="}', '{"b64": 1}', '{"b64": "w6"}', '[{"b65": "w6Q="}]'):
        assert_refused(echo(client, "string", wrong), 400)


def test_bytes_outputs_are_written_as_base64():
    array = np.array([b"\xff", b"a"], object)
    assert rest._to_json("image_bytes", array) == [{"b64": "/w=="}, {"b64": "YQ=="}]


@pytest.mark.parametrize(
    ("dtype", "sent", "received"),
    [
        ("float32", "[0.1, 1e-7, 123456789.0]", "[0.1, 1e-07, 123456790.0]"),
        ("float32", "[NaN, Infinity, -Infinity]", None),
        ("float64", "[0.1, 0.1234567890123]", None),
        ("int8", "[1, -128, 127]", None),
        ("int64", "[9223372036854775807, -9223372036854775808]", None),
        ("uint64", "[18446744073709551615]", None),
        ("bool", "[true, false]", None),
        ("int64", "[[[1], [2]], [[3], [-4]]]", None),
        ("int32", "3", None),
        ("float32", "[]", None),
    ],
)
def test_numbers(client, dtype, sent, received):
    code, document = echo(client, dtype, sent)
    assert code == 200
    assert str(document["outputs"]) == str(json.loads(received or sent))


# Predict: refusals


@pytest.mark.parametrize(
    "body",
    [
        "",
        '{"instances": [1]} x',
        '{"inputs": ' + "[" * 100_000,
        b'{"inst\xff\x00',
        "[1]",
        {"x": 1},
        {"instances": 1},
        {"instances": []},
        {"instances": [[1]], "inputs": [[1]]},
        {"signature_name": 100, "instances": [[1]]},
        {"signature_name": "no", "instances": [[1]]},
        {"instances": ["x", "y"]},
        {"instances": [[1, 2], [3]]},
        {"instances": [{"x": 1}, 2]},
        {"instances": [{"z": 1}]},
        {"inputs": {}},
        {"inputs": [1e39]},
        {"inputs": True},
        {"inputs": None},
        {"inputs": {"x": {"b64": "AA=="}}},
        {"inputs": "\ud800"},
    ],
    ids=lambda body: str(body)[:40],
)
def test_refused_prediction(client, body):
    assert_refused(predict(client, body), 400)
    assert predict(client, {"instances": [[2.0]]})[0] == 200


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("int32", 2147483648), ("int32", 1.5), ("int8", 300), ("uint8", -1), ("int64", 2**63)],
)
def test_number_outside_its_dtype_is_refused(client, dtype, value):
    assert_refused(echo(client, dtype, f"[{value}]"), 400, '"value"', dtype)


@pytest.mark.parametrize("sizes", [{"total": ()}, {"scaled": (2, 3), "total": (1,)}])
def test_rows_need_outputs_with_rows(sizes):
    outputs = {alias: np.zeros(size, np.float32) for alias, size in sizes.items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match='send "inputs"'):
        rest._write_rows(outputs)


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", "/v1/models", 400),
        ("PUT", "/v1/models/half:predict", 400),
        ("GET", "/v1/models/half:predict", 400),
        ("POST", "/v1/models/half:classify", 400),
        ("POST", "/v1/models/half/versions/HELLO:predict", 400),
        ("POST", f"/v1/models/half/versions/{2**64}:predict", 400),
        ("POST", "/v1/models/no:predict", 404),
        ("POST", "/v1/models/half/versions/50:predict", 404),
        ("POST", "/v1/models/half/labels/no:predict", 400),
        ("GET", "/v1/models/no", 404),
        ("GET", "/v1/models/no/metadata", 404),
        ("GET", "/v2/models/half", 404),
    ],
)
def test_refused_path(client, method, path, code):
    body = {"instances": [[1.0]]} if method != "GET" else None
    answer = client.open(path, method=method, json=body)
    assert_refused((answer.status_code, answer.json), code)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["instances", "inputs", "signature_name"]), JSON)


@settings(max_examples=150, deadline=None)
@given(
    body=st.binary() | DOCUMENTS.map(json.dumps) | JSON.map(json.dumps),
    model=st.sampled_from(["half", "scale"]),
)
def test_any_body_is_answered(client, body, model):
    answer = predict(client, body, model)
    if answer[0] != 200:
        assert_refused(answer, 400)


# Status, metadata


@pytest.mark.parametrize("model", ["half", "half/versions/123", "half/labels/best"])
def test_status(client, model):
    answer = client.get(f"/v1/models/{model}")
    ok = {"error_code": "OK", "error_message": ""}
    version = {"version": "123", "state": "AVAILABLE", "status": ok}
    assert answer.json == {"model_version_status": [version]}
    assert '"AVAILABLE"' in answer.text  # what serving/healthcheck.sh looks for


def test_metadata(client):
    document = client.get("/v1/models/half/metadata").json
    assert document["model_spec"] == {"name": "half", "signature_name": "", "version": "123"}
    default = document["metadata"]["signature_def"]["signature_def"]["serving_default"]
    dims = [{"size": "-1", "name": ""}, {"size": "1", "name": ""}]
    shape = {"dim": dims, "unknown_rank": False}
    assert default["inputs"] == {"x": {"dtype": "DT_FLOAT", "tensor_shape": shape, "name": "x:0"}}
    assert default["method_name"] == "tensorflow/serving/predict"


# Timeout, the process


def test_timeout(served):
    client = rest.create_app(served.repository, timeout=0.2).test_client()
    assert_refused(predict(client, {"signature_name": "count", "inputs": 2_000_000}, "scale"), 504)
    assert client.get(METRICS).status_code == 404  # without a path there are no metrics


def test_process_serves_both_ports_and_finishes_what_is_in_flight_at_sigterm(tmp_path):
    folder = saved_models.save_scale(tmp_path / "scale" / "1")
    saved_models.write_warmup(folder, predict_request())
    config = tmp_path / "monitoring.config"
    config.write_text("prometheus_config { enable: true }")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        started(
            f"--rest_api_port={port}",
            "--grpc_max_threads=2",
            "--rest_api_num_threads=2",
            "--rest_api_timeout_in_ms=15000",
            "--model_name=scale",
            f"--model_base_path={tmp_path / 'scale'}",
            f"--monitoring_config_file={config}",
        ) as process,
        requests.Session() as session,  # keeps its connection, which must not hold up the end
        ThreadPoolExecutor() as pool,
    ):
        client = client_of(process)
        assert process.stdout.readline() == f"Exporting HTTP/REST API at:0.0.0.0:{port} ...\n"
        assert ":tensorflow:core:graph_runs 1.0\n" in session.get(url + METRICS).text  # warm-up

        def post(http, body):
            return http.post(f"{url}/v1/models/scale:predict", json=body, timeout=SECONDS).json()

        assert "instances" in post(session, {})["error"]
        large = post(session, {"inputs": [[1, 2, 3]] * 100_000})
        assert large["outputs"]["total"] == [6] * 100_000
        body = {"signature_name": "count", "inputs": 150_000}  # ends after the one over gRPC
        over_http = pool.submit(post, requests, body)
        request = predict_request({"limit": np.int32(100_000)}, signature="count")
        over_grpc = client.prediction.Predict.future(request, timeout=SECONDS)
        assert client.statuses() and session.get(url + METRICS).ok  # both have arrived meanwhile
        assert not over_http.done() and not over_grpc.done()  # or the test shows nothing
        process.send_signal(signal.SIGTERM)
        assert over_http.result() == {"outputs": 150_000}
        assert over_grpc.result().outputs["counted"].int_val[0] == 100_000
        assert process.wait(SECONDS) == 0
        log = process.stderr.read().splitlines()
        [loaded] = [line for line in log if "Loaded version 1 of scale" in line]
        assert loaded.endswith("warm-up requests: 1")
        assert available_cpus() == 1 or "for an operation" in "".join(log)
        assert "Ending" in log[-1]


# Metrics


def metric(name, **labels):
    """Return the value of a metric, 0 before it was ever counted."""
    return monitoring._registry.get_sample_value(f":tensorflow:{name}", labels) or 0


def test_requests_are_counted_and_timed(client, served):
    answered = partial(metric, "serving:request_count_total", model_name="half")
    timed = partial(metric, "serving:request_latency_count", model_name="half")

    def metrics():
        return [
            answered(status="OK"),
            answered(status="INVALID_ARGUMENT"),
            timed(API="predict", entrypoint="REST"),
            timed(API="Predict", entrypoint="GRPC"),
            metric("core:graph_runs_total"),
        ]

    before = metrics()
    predict(client, {"instances": [[1.0]]})
    predict(client, {})
    served.client.predict(predict_request({"x": np.float32([[1.0]])}, name="half"))
    assert [now - then for now, then in zip(metrics(), before, strict=True)] == [2, 1, 1, 1, 2]


def test_metrics_page_has_tensorflow_servings_names_and_buckets(client):
    predict(client, {"instances": [[1.0]]})
    lines = client.get(METRICS).text.splitlines()
    for line in (
        "# TYPE :tensorflow:serving:request_count counter",
        "# TYPE :tensorflow:serving:request_latency histogram",
        "# TYPE :tensorflow:core:graph_runs counter",
        "# TYPE :tensorflow:core:graph_run_time_usecs counter",
    ):
        assert lines.count(line) == 1, line
    name = ":tensorflow:serving:request_latency_bucket"
    found = [line for line in lines if line.startswith(name) and '"half"' in line]
    limits = [float(line.split('le="')[1].split('"')[0]) for line in found if "REST" in line]
    assert limits[:4] == [10, 18, 32.4, 58.32]
    assert not any("_total" in line or "_created" in line for line in lines)


def test_invented_model_names_do_not_fill_the_memory(client, monkeypatch):
    monkeypatch.setattr(monitoring, "MOST_NAMES", 1)
    for name in ("one", "two", "three"):
        predict(client, {"instances": [1]}, f"invented-{name}")
    assert metric("serving:request_count_total", model_name="(others)", status="NOT_FOUND")
    assert "invented-three" not in client.get(METRICS).text
