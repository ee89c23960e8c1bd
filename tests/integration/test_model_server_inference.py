"""Classify, Regress and MultiInference over gRPC, and the health service."""

import os

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

from tensorflow.core.example.example_pb2 import Example  # noqa: E402

from model_server import monitoring  # noqa: E402
from model_server.grpc_services import create_server  # noqa: E402
from model_server.repository import Repository  # noqa: E402
from model_server.versions import Model  # noqa: E402
from tests import saved_models  # noqa: E402  (needs TensorFlow)

SECONDS = 10
REGRESS, CLASSIFY = "tensorflow/serving/regress", "tensorflow/serving/classify"
INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    """A server with `half` in TensorFlow 1's style and `half2` in TensorFlow 2's, version 123."""
    base = tmp_path_factory.mktemp("served")
    saved_models.save_half_plus_two(base / "half" / "123")
    saved_models.save_half_plus_two_of_tensorflow_2(base / "half2" / "123")
    repository = Repository([Model("half", base / "half"), Model("half2", base / "half2")])
    repository.poll()
    server, port = create_server(repository, "127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    server.stop(None).wait()
    repository.close()


@pytest.fixture(scope="module")
def stub(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def example(*x, label=None):
    built = Example()
    if x:
        built.features.feature["x"].float_list.value.extend(x)
    if label is not None:
        built.features.feature["label"].bytes_list.value.append(label)
    return built


def ask(message, signature, *examples, name="half"):
    request = message()
    request.model_spec.name, request.model_spec.signature_name = name, signature
    request.input.example_list.examples.extend(examples)
    return request


def tasks(*given, name="half"):
    request = MultiInferenceRequest()
    for signature, method in given:
        task = request.tasks.add(method_name=method)
        task.model_spec.name, task.model_spec.signature_name = name, signature
    request.input.example_list.examples.extend([example(2.0), example(4.0)])
    return request


def classes(result):
    return [[(c.label, c.score) for c in one.classes] for one in result.classifications]


def values(result):
    return [one.value for one in result.regressions]


def assert_refused(call, request, code, details):
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=SECONDS)
    assert caught.value.code() == code
    assert caught.value.details().startswith(details), caught.value.details()


@pytest.mark.parametrize("name", ["half", "half2"])
def test_classify_and_regress(stub, name):
    examples = example(2.0), example(3.0)
    asked = ask(ClassificationRequest, "classify_x_to_y", *examples, name=name)
    classified = stub.Classify(asked, timeout=SECONDS)
    assert classes(classified.result) == [[("", 3.0)], [("", 3.5)]]
    asked = ask(RegressionRequest, "regress_x_to_y", *examples, name=name)
    regressed = stub.Regress(asked, timeout=SECONDS)
    assert values(regressed.result) == [3.0, 3.5]
    for response, signature in ((classified, "classify_x_to_y"), (regressed, "regress_x_to_y")):
        spec = response.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == (name, 123, signature)


def test_labels_with_scores_or_alone(stub):
    examples = example(2.0, label=b"a"), example(4.0, label=b"\xff")
    asked = ask(ClassificationRequest, "classify_labels", *examples)
    response = stub.Classify(asked, timeout=SECONDS)
    replaced = "\N{REPLACEMENT CHARACTER}"  # a label in a message has to be text
    expected = [[("a", 3.0), ("A", -3.0)], [(replaced, 4.0), (replaced, -4.0)]]
    assert classes(response.result) == expected
    asked = ask(ClassificationRequest, "classify_only_labels", examples[0])
    response = stub.Classify(asked, timeout=SECONDS)
    assert classes(response.result) == [[("a", 0.0), ("A", 0.0)]]


def test_context_is_part_of_every_example_unless_it_says_otherwise(stub):
    request = ask(ClassificationRequest, "classify_labels")
    shared = request.input.example_list_with_context
    shared.context.CopyFrom(example(2.0, label=b"shared"))
    shared.examples.extend([example(), example(6.0), example(label=b"own")])
    found = classes(stub.Classify(request, timeout=SECONDS).result)
    assert [row[0] for row in found] == [("shared", 3.0), ("shared", 5.0), ("own", 3.0)]


@pytest.mark.parametrize("name", ["half", "half2"])
def test_multi_inference(stub, name):
    asked = tasks(("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY), name=name)
    regressed, classified = stub.MultiInference(asked, timeout=SECONDS).results
    assert values(regressed.regression_result) == [3.0, 4.0]
    assert classes(classified.classification_result) == [[("", 3.0)], [("", 4.0)]]
    for result, signature in ((regressed, "regress_x_to_y"), (classified, "classify_x_to_y")):
        spec = result.model_spec
        assert (spec.name, spec.version.value, spec.signature_name) == (name, 123, signature)


@pytest.mark.parametrize(
    ("method", "request_", "code", "details"),
    [
        ("Classify", ClassificationRequest(), INVALID, "Missing ModelSpec"),
        (
            "Classify",
            ask(ClassificationRequest, "classify_x_to_y", name="no"),
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(no)",
        ),
        (
            "Classify",
            ask(ClassificationRequest, "no", example(2.0)),
            INVALID,
            "No signature was found with the name: no",
        ),
        ("Classify", ask(ClassificationRequest, "classify_x_to_y"), INVALID, "Input is empty."),
        (
            "Classify",
            ask(ClassificationRequest, "", example(2.0)),
            INVALID,
            "No classification inputs found in SignatureDef: inputs {",
        ),
        (
            "Classify",
            ask(ClassificationRequest, "regress_x_to_y", example(2.0)),
            INVALID,
            "Expected classification signature outputs to contain at least one of "
            '"classes" or "scores". Signature was: ',
        ),
        (
            "Classify",
            ask(ClassificationRequest, "classify_flat", example(2.0)),
            INVALID,
            "Expected Tensor shape: [batch_size num_classes] but got [1]",
        ),
        (
            "Classify",
            ask(ClassificationRequest, "classify_swapped", example(2.0)),
            INVALID,
            "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
        ),
        (
            "Classify",
            ask(ClassificationRequest, "classify_unequal", example(2.0)),
            INVALID,
            "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
        ),
        (
            "Classify",
            ask(ClassificationRequest, "classify_x_to_y", example()),
            INVALID,
            "Name: <unknown>, Feature: x (data type: float) is required but could not be found.",
        ),
        ("Regress", RegressionRequest(), INVALID, "Missing ModelSpec"),
        (
            "Regress",
            ask(RegressionRequest, "classify_labels", example(2.0)),
            INVALID,
            "Expected one output Tensor.",
        ),
        (
            "Regress",
            ask(RegressionRequest, "regress_x", example(2.0)),
            INVALID,
            "Expects arg[0] to be float but string is provided",
        ),
        (
            "Regress",
            ask(RegressionRequest, "regress_sum", example(2.0), example(2.0)),
            INVALID,
            "Input batch size did not match output batch size: 2 vs. 1",
        ),
        (
            "Regress",
            ask(RegressionRequest, "regress_pairs", example(2.0)),
            INVALID,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            "[1,2]",
        ),
        (
            "Regress",
            ask(RegressionRequest, "regress_labels", example(2.0)),
            INVALID,
            "Expected output Tensor of DT_FLOAT.  Got: DT_STRING",
        ),
        (
            "MultiInference",
            MultiInferenceRequest(),
            INVALID,
            "ModelSpec has no name specified.",
        ),
        (
            "MultiInference",
            tasks(("regress_x_to_y", REGRESS), ("regress_x_to_y", REGRESS)),
            INVALID,
            "Duplicate evaluation of signature: regress_x_to_y",
        ),
        (
            "MultiInference",
            tasks(("no", REGRESS)),
            INVALID,
            "Requested signature not found in model graph: no",
        ),
        (
            "MultiInference",
            tasks(("regress_x_to_y", "tensorflow/serving/predict")),
            grpc.StatusCode.UNIMPLEMENTED,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
    ],
)
def test_refused(stub, method, request_, code, details):
    assert_refused(getattr(stub, method), request_, code, details)


def test_multi_inference_of_two_models_is_refused(stub):
    request = tasks(("regress_x_to_y", REGRESS), ("classify_x_to_y", CLASSIFY))
    request.tasks[1].model_spec.name = "half2"
    details = "All ModelSpecs in a MultiInferenceRequest must access the same model name."
    assert_refused(stub.MultiInference, request, INVALID, details)


def test_health(channel):
    health = health_pb2_grpc.HealthStub(channel)
    response = health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    unknown = health_pb2.HealthCheckRequest(service="no")
    assert_refused(health.Check, unknown, grpc.StatusCode.NOT_FOUND, "")


def test_calls_are_counted(stub):
    def metrics():
        lines = (line.rsplit(" ", 1) for line in monitoring.page().splitlines())
        values = {name: value for name, value in lines if not name.startswith("#")}
        return [
            float(values.get(f":tensorflow:serving:{name}", 0))
            for name in (
                'request_count{model_name="half",status="OK"}',
                'request_latency_count{model_name="half",API="Classify",entrypoint="GRPC"}',
                'runtime_latency_count{model_name="half",API="Classify",runtime="TF1"}',
                'request_example_count_total{model="half"}',
            )
        ]

    before = metrics()
    asked = ask(ClassificationRequest, "classify_x_to_y", *[example(2.0)] * 3)
    stub.Classify(asked, timeout=SECONDS)
    assert metrics() == [now + more for now, more in zip(before, (1, 1, 1, 3), strict=True)]


def test_warmup_runs_every_kind_of_request(tmp_path):
    path = saved_models.save_half_plus_two(tmp_path / "1")
    logs = [PredictionLog() for _ in range(4)]
    logs[0].classify_log.request.CopyFrom(
        ask(ClassificationRequest, "classify_x_to_y", example(1.0))
    )
    logs[1].regress_log.request.CopyFrom(ask(RegressionRequest, "regress_x_to_y", example(1.0)))
    logs[2].multi_inference_log.request.CopyFrom(tasks(("regress_x_to_y", REGRESS)))
    logs[3].classify_log.request.CopyFrom(ask(ClassificationRequest, "no", example(1.0)))
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir()
    for count, error in ((3, None), (4, "No signature was found with the name: no")):
        with tf.io.TFRecordWriter(str(file)) as writer:
            for log in logs[:count]:
                writer.write(log.SerializeToString())
        model = Model("half", tmp_path)
        model.poll()
        [status] = model.statuses()
        assert (status.error and status.error.message) == error
        model.unload()


def test_profiler_traces_what_runs(channel, stub, tmp_path):
    asked = ask(RegressionRequest, "regress_x_to_y", example(1.0))
    trace = channel.unary_unary("/tensorflow.ProfilerService/Profile")
    # tensorflow.ProfileRequest, which no Python package has: opts (host tracer level 2, version 1,
    # duration_ms 300), repository_root
    root = str(tmp_path).encode()
    options = b"\x10\x02" + b"\x28\x01" + b"\x48\xac\x02"
    request = b"\x22" + bytes([len(options)]) + options + b"\x2a" + bytes([len(root)]) + root
    traced = trace.future(request, timeout=SECONDS)
    while not traced.done():
        stub.Regress(asked, timeout=SECONDS)
    assert traced.code() == grpc.StatusCode.OK
    [file] = tmp_path.rglob("*.xplane.pb")
    assert b"SessionRun" in file.read_bytes()
    unknown = channel.unary_unary("/tensorflow.ProfilerService/No")
    assert_refused(unknown, b"", grpc.StatusCode.UNIMPLEMENTED, "")
