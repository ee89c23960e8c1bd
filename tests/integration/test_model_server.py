"""The model server answers as TensorFlow Serving does: values, statuses, versions, its ending."""

import ast
import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Queue

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.predict_pb2 import PredictRequest

from tutorial.processes import wait_until

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

from tensorflow.core.framework.tensor_pb2 import TensorProto  # noqa: E402
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel  # noqa: E402

from model_server.grpc_services import create_server  # noqa: E402
from model_server.repository import Repository  # noqa: E402
from model_server.runtime import tensors  # noqa: E402
from model_server.versions import Model  # noqa: E402
from tests import saved_models  # noqa: E402  (needs TensorFlow)

ROOT = Path(__file__).parents[2]
SECONDS = 10  # for one call, and for what a server should do soon


class Client:
    """Both services of a server on this machine."""

    def __init__(self, port, address=None):
        self.port = port
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address or f"127.0.0.1:{port}", options=options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request):
        return self.prediction.Predict(request, timeout=SECONDS)

    def statuses(self, name="scale", **spec):
        request = GetModelStatusRequest()
        fill_spec(request.model_spec, name=name, **spec)
        found = self.model.GetModelStatus(request, timeout=SECONDS).model_version_status
        return [(s.version, ModelVersionStatus.State.Name(s.state), s.status) for s in found]


def fill_spec(spec, *, name, version=None, label="", signature=""):
    spec.name, spec.signature_name = name, signature
    if version is not None:
        spec.version.value = version
    if label:
        spec.version_label = label


def predict_request(inputs=None, *, outputs=(), name="scale", **spec):
    request = PredictRequest(output_filter=outputs)
    fill_spec(request.model_spec, name=name, **spec)
    for alias, value in ({"x": np.ones((1, 3), np.float32)} if inputs is None else inputs).items():
        request.inputs[alias].CopyFrom(tf.make_tensor_proto(value))
    return request


def tensor(dtype=1, shape=(1, 3), **fields):
    """Build a TensorProto (1: DT_FLOAT) as it is told, valid or not."""
    proto = TensorProto(dtype=dtype, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def assert_refused(call, code, details):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert (caught.value.code(), caught.value.details()) == (code, details)


@contextlib.contextmanager
def serving(*models):
    """Serve models in this process; yield the repository and a client."""
    repository = Repository(models)
    repository.poll()
    server, port = create_server(repository, "127.0.0.1:0")
    server.start()
    client = Client(port)
    try:
        yield repository, client
    finally:
        client.channel.close()
        server.stop(None).wait()
        repository.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One SavedModel, saved once; tests copy it."""
    return saved_models.save_scale(tmp_path_factory.mktemp("saved") / "scale")


@pytest.fixture(scope="module")
def client(saved, tmp_path_factory):
    """A server with `scale` in version 7, the TensorFlow 1 model `half`, and `rare` numbers."""
    base = tmp_path_factory.mktemp("served")
    shutil.copytree(saved, base / "scale" / "7")
    saved_models.save_half_plus_two(base / "half" / "123")
    saved_models.save_rare_numbers(base / "rare" / "1")
    models = [Model(name, base / name) for name in ("scale", "half", "rare")]
    with serving(*models) as (_, client):
        yield client


def publish(saved, folder):
    """Let a version folder appear in one step, as a careful exporter does."""
    half_done = folder.parent.parent / f"half-done-{folder.name}"
    shutil.copytree(saved, half_done)
    folder.parent.mkdir(exist_ok=True)
    half_done.rename(folder)


# Predict: answers


def test_prediction_names_model_version_and_signature(client):
    response = client.predict(predict_request({"x": np.float32([[1, 2, 3], [4, 5, 6]])}))
    scaled, total = response.outputs["scaled"], response.outputs["total"]
    assert list(scaled.float_val) == [2, 4, 6, 8, 10, 12]
    assert [dim.size for dim in scaled.tensor_shape.dim] == [2, 3]
    assert not scaled.tensor_content  # TensorFlow Serving answers with the typed fields
    assert list(total.float_val) == [6, 15]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("scale", 7, "serving_default")


def test_output_filter_limits_the_answer(client):
    assert set(client.predict(predict_request(outputs=["total"])).outputs) == {"total"}


def test_version_can_be_asked_for(client):
    assert client.predict(predict_request(version=7)).model_spec.version.value == 7


def test_tensorflow_1_model_takes_a_shape_its_placeholder_would_not(client):
    request = predict_request({"x": np.float32([2.0])}, name="half", outputs=["y"])
    response = client.predict(request)  # x is (-1, 1): only the operations judge a shape
    assert list(response.outputs["y"].float_val) == [3.0]
    assert response.model_spec.version.value == 123


def test_strings_and_tables(client):
    response = client.predict(
        predict_request({"text": [b"a", b"\xff\x00", b""]}, signature="words")
    )
    assert list(response.outputs["upper"].string_val) == [b"A", b"\xff\x00", b""]
    assert list(response.outputs["found"].int64_val) == [1, -1, -1]


def test_empty_batch(client):
    response = client.predict(predict_request({"x": np.zeros((0, 3), np.float32)}))
    assert [dim.size for dim in response.outputs["scaled"].tensor_shape.dim] == [0, 3]


def test_call_without_a_deadline(client):
    assert client.prediction.Predict(predict_request()).model_spec.version.value == 7


ALL_NUMBERS = [
    *((dtype, "scale") for dtype in saved_models.NUMBERS),
    *((dtype, "rare") for dtype in saved_models.RARE_NUMBERS),
]


@pytest.mark.parametrize("dtype, model", ALL_NUMBERS, ids=lambda value: getattr(value, "name", ""))
def test_every_number_dtype_there_and_back(client, dtype, model):
    value = np.array([[0, 1], [1, 1 if dtype.name == "int2" else 3]]).astype(dtype.as_numpy_dtype)
    packed = tensor(dtype.as_datatype_enum, value.shape, tensor_content=value.tobytes())
    request = predict_request({}, name=model, signature=f"echo_{dtype.name}")
    request.inputs["value"].CopyFrom(packed)
    answer = client.predict(request).outputs["value"]
    assert not answer.tensor_content
    understood = tf.io.parse_tensor(answer.SerializeToString(), dtype).numpy()
    assert (understood.shape, understood.tobytes()) == (value.shape, value.tobytes())

    request.inputs["value"].CopyFrom(answer)  # and now in the typed fields
    assert client.predict(request).outputs["value"] == answer


@pytest.mark.parametrize("name, value", [("qint8", -128), ("int4", -8), ("int2", -2)])
def test_numbers_below_zero_of_dtypes_that_numpy_lacks(client, name, value):
    dtype = {t.name: t for t in saved_models.RARE_NUMBERS}[name]
    request = predict_request({}, name="rare", signature=f"echo_{name}")
    request.inputs["value"].CopyFrom(tensor(dtype.as_datatype_enum, (1,), int_val=[value]))
    assert list(client.predict(request).outputs["value"].int_val) == [value]


@pytest.mark.parametrize("value", [b"scalar", [[b"a", b""], [b"\xff", "ä".encode()]]])
def test_string_shapes(client, value):
    request = predict_request({"value": np.array(value, object)}, signature="echo_string")
    assert client.predict(request).outputs["value"] == request.inputs["value"]


def test_too_few_typed_values_repeat_the_last_and_none_are_zeros(client):
    request = predict_request({"x": np.ones((2, 3), np.float32)}, outputs=["scaled"])
    request.inputs["x"].ClearField("tensor_content")
    assert list(client.predict(request).outputs["scaled"].float_val) == [0] * 6
    request.inputs["x"].float_val.extend([1, 2])
    assert list(client.predict(request).outputs["scaled"].float_val) == [2, 4, 4, 4, 4, 4]


def test_message_larger_than_grpcs_default_limit(client):
    image = np.ones((5, 299, 299, 3), np.float32)  # 5.4 MB, the default limit is 4 MiB
    request = predict_request({"value": image}, signature="echo_float32")
    assert len(client.predict(request).outputs["value"].float_val) == image.size


# Predict: refusals

X = np.ones((1, 3), np.float32)
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (PredictRequest(), INVALID, "Missing ModelSpec"),
        (predict_request(name=""), INVALID, "ModelSpec has no name specified."),
        (predict_request(name="no"), NOT_FOUND, "Servable not found for request: Latest(no)"),
        (
            predict_request(version=8),
            NOT_FOUND,
            "Servable not found for request: Specific(scale, 8)",
        ),
        (predict_request(label="best"), INVALID, "Unrecognized servable version label: best"),
        (
            predict_request(signature="no"),
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "no" not found.',
        ),
        (
            predict_request({}, signature="__saved_model_init_op"),  # no tensor, but an operation
            INVALID,
            "Tensor NoOp, specified in either feed_devices or fetch_devices was not found in the "
            "Graph",
        ),
        (
            predict_request({}),
            INVALID,
            "input size does not match signature: 0!=1 len({}) != len({x}). "
            "Sent extra: {}. Missing but required: {x}.",
        ),
        (
            predict_request({"x": X, "y": X}),
            INVALID,
            "input size does not match signature: 2!=1 len({x,y}) != len({x}). "
            "Sent extra: {y}. Missing but required: {}.",
        ),
        (
            predict_request({"input_8": X}),
            INVALID,
            "Signature input alias: x(feed name: serving_default_x:0) not found in request and no "
            "default value provided. Inputs expected to be in the request {input_8}, or default "
            "input alias set: ",
        ),
        (
            predict_request({"x": X.astype(np.int32)}),
            INVALID,
            "Expects arg[0] to be float but int32 is provided",
        ),
        (
            predict_request(outputs=["dense_7"]),
            INVALID,
            "output tensor alias not found in signature: dense_7 "
            "Outputs expected to be in the set {scaled,total}.",
        ),
        (
            predict_request(outputs=["total", "total"]),
            INVALID,
            "duplicate output tensor alias: total",
        ),
    ],
)
def test_refused_request(client, request_, code, details):
    assert_refused(lambda: client.predict(request_), code, details)


def test_wrong_shape_is_refused_by_the_operation_it_does_not_fit(client):
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(predict_request({"x": np.ones((1, 4), np.float32)}, outputs=["total"]))
    assert caught.value.code() == INVALID
    assert "In[0]: [1,4], In[1]: [3,1]" in caught.value.details()


@pytest.mark.parametrize(
    "bad",
    [
        tensor(tensor_content=b"12345"),
        tensor(tensor_content=bytes(11)),
        tensor(tensor_content=bytes(16)),
        tensor(tensor_content=bytes(12), shape=(-1, 3)),
        tensor(tensor_content=bytes(12), shape=(-1, -3)),
        tensor(shape=(2**40, 2**40)),  # a few bytes that ask for more memory than there is
        tensor(shape=(2**30,)),
        tensor(dtype=7, shape=(2**27,)),
        tensor(shape=(1,) * 300, float_val=[1]),
        tensor(dtype=0),
        tensor(dtype=999, float_val=[1]),
        tensor(dtype=20, float_val=[1]),  # a resource
        tensor(dtype=7, tensor_content=b"\xff\xff\xff\xff\xff"),  # strings, badly packed
    ],
    ids=lambda bad: str(bad).replace("\n", " ")[:60],
)
def test_tensor_that_is_none(client, bad):
    request = predict_request()
    request.inputs["x"].CopyFrom(bad)
    assert_refused(lambda: client.predict(request), INVALID, "tensor parsing error: x")
    client.predict(predict_request())


def test_message_that_is_none(client):
    predict = client.channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        predict(predict_request().SerializeToString()[:-5], timeout=SECONDS)
    assert caught.value.code() == grpc.StatusCode.INTERNAL
    client.predict(predict_request())


def test_garbage_on_the_port(client):
    with socket.create_connection(("127.0.0.1", client.port), timeout=SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n" + bytes(range(256)) * 64)
    client.predict(predict_request())


def test_long_error_messages_are_cut(client):
    with pytest.raises(grpc.RpcError) as caught:
        client.predict(predict_request(signature="s" * 9999))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details().endswith("sss...TRUNCATED")
    assert len(caught.value.details()) == 1024 + len("...TRUNCATED")


def test_computation_ends_at_the_deadline(saved, tmp_path):
    publish(saved, tmp_path / "scale" / "1")
    model = Model("scale", tmp_path / "scale")
    with serving(model) as (_, client):
        long = predict_request({"limit": np.int32(2_000_000)}, signature="count")
        with pytest.raises(grpc.RpcError) as caught:
            client.prediction.Predict(long, timeout=0.3)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        started = time.monotonic()
        model.unload()  # waits for the request, which would take many seconds more
        assert time.monotonic() - started < 4


# GetModelMetadata, GetModelStatus


def metadata_request(*fields, name="scale"):
    request = GetModelMetadataRequest(metadata_field=fields)
    fill_spec(request.model_spec, name=name)
    return request


def test_metadata_is_the_signatures_of_the_saved_model(client, saved):
    response = client.prediction.GetModelMetadata(metadata_request("signature_def"))
    assert (response.model_spec.name, response.model_spec.version.value) == ("scale", 7)
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    in_file = SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs[0]
    assert dict(signatures.signature_def) == dict(in_file.signature_def)
    assert "__saved_model_init_op" in signatures.signature_def


@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (GetModelMetadataRequest(), INVALID, "Missing ModelSpec"),
        (
            metadata_request(),
            INVALID,
            "GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (metadata_request("graph_def"), INVALID, "Metadata field graph_def is not supported"),
        (
            metadata_request("signature_def", name="no"),
            NOT_FOUND,
            "Servable not found for request: Latest(no)",
        ),
    ],
)
def test_refused_metadata(client, request_, code, details):
    assert_refused(lambda: client.prediction.GetModelMetadata(request_), code, details)


def test_status_of_all_versions_or_one(client):
    for spec in ({}, {"version": 7}):
        [(version, state, status)] = client.statuses(**spec)
        assert (version, state) == (7, "AVAILABLE")
        assert (status.error_code, status.error_message) == (0, "")


@pytest.mark.parametrize(
    ("spec", "code", "details"),
    [
        ({"name": "no"}, NOT_FOUND, "Could not find any versions of model no"),
        ({"version": 8}, NOT_FOUND, "Could not find version 8 of model scale"),
        ({"label": "best"}, INVALID, "Unrecognized servable version label: best"),
    ],
)
def test_refused_status(client, spec, code, details):
    assert_refused(lambda: client.statuses(**spec), code, details)


# Versions


def test_new_version_is_swapped_in_and_no_request_is_lost(saved, tmp_path):
    base = tmp_path / "scale"
    publish(saved, base / "1")
    with serving(Model("scale", base)) as (repository, client):
        seen, stop = Queue(), threading.Event()

        def ask():
            while not stop.is_set():
                try:
                    seen.put(client.predict(predict_request()).model_spec.version.value)
                except grpc.RpcError as error:
                    seen.put(error)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        repository.watch(0.05)
        publish(saved, base / "12")  # and not "2": numbers, not text, are compared
        ended = [(12, "AVAILABLE"), (1, "END")]
        wait_until(
            lambda: [status[:2] for status in client.statuses()] == ended,
            timeout=SECONDS,
            what="version 12",
        )
        stop.set()
        for thread in threads:
            thread.join()
        answers = [seen.get() for _ in range(seen.qsize())]
        assert set(answers) == {1, 12}
        details = "Servable not found for request: Specific(scale, 1)"
        assert_refused(lambda: client.predict(predict_request(version=1)), NOT_FOUND, details)


def test_old_version_is_unloaded_when_its_last_request_is_answered(saved, tmp_path):
    publish(saved, tmp_path / "scale" / "1")
    model = Model("scale", tmp_path / "scale")
    model.poll()
    with model.lease() as (version, servable):
        publish(saved, tmp_path / "scale" / "2")
        poll = threading.Thread(target=model.poll)
        poll.start()
        unloading = [(2, ModelVersionStatus.AVAILABLE), (1, ModelVersionStatus.UNLOADING)]
        wait_until(
            lambda: [status[:2] for status in model.statuses()] == unloading,
            timeout=SECONDS,
            what="version 2",
        )
        assert version == 1
        assert servable.predict(predict_request()).outputs  # still there
        with model.lease() as (newest, _):
            assert newest == 2
    poll.join(SECONDS)
    assert [status.state for status in model.statuses()][1] == ModelVersionStatus.END
    model.unload()


def test_broken_version_leaves_the_old_one_and_is_loaded_once_mended(saved, tmp_path):
    base = tmp_path / "scale"
    publish(saved, base / "1")
    with serving(Model("scale", base)) as (repository, client):
        (base / "2").mkdir()
        (base / "2" / "saved_model.pb").write_bytes(b"\xffnot a SavedModel")
        repository.poll()
        (version, state, status), old = client.statuses()
        assert (version, state, old[:2]) == (2, "END", (1, "AVAILABLE"))
        assert status.error_code != 0
        assert "saved_model.pb" in status.error_message
        assert client.predict(predict_request()).model_spec.version.value == 1

        shutil.copytree(saved, base / "2", dirs_exist_ok=True)
        repository.poll()
        assert [found[:2] for found in client.statuses()] == [(2, "AVAILABLE"), (1, "END")]
        assert client.predict(predict_request()).model_spec.version.value == 2


def test_broken_version_is_not_tried_again_and_again(tmp_path, caplog):
    (tmp_path / "1").mkdir()
    model = Model("scale", tmp_path)
    for _ in range(3):
        model.poll()
    [message] = caplog.messages
    assert "Version 1 of scale could not be loaded: Could not find SavedModel .pb" in message


def test_removed_version_gives_way_to_the_next(saved, tmp_path):
    base = tmp_path / "scale"
    publish(saved, base / "1")
    publish(saved, base / "2")
    with serving(Model("scale", base)) as (repository, client):
        shutil.rmtree(base / "2")
        repository.poll()
        assert [found[:2] for found in client.statuses()] == [(2, "END"), (1, "AVAILABLE")]
        shutil.rmtree(base / "1")
        repository.poll()
        assert [found[:2] for found in client.statuses()] == [(2, "END"), (1, "END")]
        assert_refused(
            lambda: client.predict(predict_request()),
            NOT_FOUND,
            "Servable not found for request: Latest(scale)",
        )
        shutil.rmtree(base)
        publish(saved, base / "1")
        repository.poll()
        assert client.predict(predict_request()).model_spec.version.value == 1


def test_empty_base_path_waits_for_a_version(saved, tmp_path, caplog):
    base = tmp_path / "scale"
    (base / "not-a-version").mkdir(parents=True)
    (base / "3").write_text("no folder")
    (base / str(2**63)).mkdir()  # one more than a version can be
    with serving(Model("scale", base)) as (repository, client):
        repository.poll()
        [message] = caplog.messages  # said once
        assert "No versions of servable scale found under base path" in message
        assert_refused(client.statuses, NOT_FOUND, "Could not find any versions of model scale")
        publish(saved, base / "1")
        repository.poll()
        assert client.predict(predict_request()).model_spec.version.value == 1


def test_base_path_that_goes_away_changes_nothing(saved, tmp_path, caplog):
    base = tmp_path / "scale"
    publish(saved, base / "1")
    with serving(Model("scale", base)) as (repository, client):
        shutil.rmtree(base)
        repository.poll()
        assert f"Could not find base path {base} for servable scale" in caplog.messages[-1]
        assert client.statuses()[0][1] == "AVAILABLE"


# Warm-up


def loaded(path):
    model = Model("scale", path.parent)
    model.poll()
    [status] = model.statuses()
    model.unload()
    return status


def test_warmup_requests_are_run_before_a_version_is_available(saved, tmp_path, monkeypatch):
    publish(saved, tmp_path / "scale" / "1")
    request = predict_request(name="any")
    saved_models.write_warmup(tmp_path / "scale" / "1", [request] * 3)
    model = Model("scale", tmp_path / "scale")
    seen = []

    def predict(self, request):
        seen.append((request, model.statuses()[0].state))

    monkeypatch.setattr("model_server.runtime.servable.Servable.predict", predict)
    model.poll()
    assert seen == [(request, ModelVersionStatus.LOADING)] * 3
    assert model.statuses()[0].state == ModelVersionStatus.AVAILABLE
    model.unload()


def test_version_whose_warmup_fails_is_not_served(saved, tmp_path):
    publish(saved, tmp_path / "scale" / "1")
    wrong = predict_request(signature="no")
    saved_models.write_warmup(tmp_path / "scale" / "1", [predict_request(), wrong])
    status = loaded(tmp_path / "scale" / "1")
    assert status.error.message == 'Serving signature key "no" not found.'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no TFRecord at all, just text", "verify your warmup data is in TFRecord format"),
        (None, "Failed to parse warmup record 1 "),
    ],
)
def test_damaged_warmup_file(saved, tmp_path, content, message):
    publish(saved, tmp_path / "scale" / "1")
    saved_models.write_warmup(tmp_path / "scale" / "1", [])
    file = tmp_path / "scale" / "1" / "assets.extra" / "tf_serving_warmup_requests"
    if content is None:
        with tf.io.TFRecordWriter(str(file)) as writer:
            writer.write(b"\xff\xff")
    else:
        file.write_bytes(content)
    assert message in loaded(tmp_path / "scale" / "1").error.message


SAVE_WITH_TF_TEXT = """
import importlib.util, pathlib, sys
import tensorflow as tf
package = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
fold = tf.load_op_library(str(package / "python/ops/_normalize_ops.so")).case_fold_utf8
module = tf.Module()
module.fold = tf.function(
    lambda text: {"folded": fold(text)},
    input_signature=[tf.TensorSpec((None,), tf.string, "text")],
)
tf.saved_model.save(module, sys.argv[1], signatures=module.fold)
"""


@pytest.mark.skipif(
    not importlib.util.find_spec("tensorflow_text"), reason="there is no TF Text for this system"
)
def test_operations_of_tf_text(tmp_path):
    saving = [sys.executable, "-c", SAVE_WITH_TF_TEXT, tmp_path / "fold" / "1"]
    subprocess.run(saving, check=True, capture_output=True)  # they stay unknown to this process
    with serving(Model("fold", tmp_path / "fold")) as (_, client):
        words = {"text": np.array(["Straße".encode()], object)}
        answer = client.predict(predict_request(words, name="fold"))
    assert list(answer.outputs["folded"].string_val) == [b"strasse"]


# The process


def start(*flags):
    return subprocess.Popen(
        [sys.executable, "-m", "model_server", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},  # says where it stands when aborted
    )


@contextlib.contextmanager
def ended_in_any_case(process):
    try:
        yield process
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        print(process.communicate()[1])
        raise
    finally:
        process.kill()
        process.communicate()


def test_process_finishes_what_is_in_flight_at_sigterm(saved, tmp_path):
    publish(saved, tmp_path / "scale" / "1")
    saved_models.write_warmup(tmp_path / "scale" / "1", [predict_request()])
    process = start(
        "--port=0",
        "--model_name=scale",
        f"--model_base_path={tmp_path / 'scale'}",
        "--grpc_max_threads=2",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=600000,grpc.lb_policy_name=x",
        "--file_system_poll_wait_seconds=1",
    )
    with ended_in_any_case(process):
        line = process.stdout.readline()
        assert line.startswith("Running gRPC ModelServer at 0.0.0.0:"), process.stderr.read()
        client = Client(line.split(":")[1].split()[0])
        busy = predict_request({"limit": np.int32(100_000)}, signature="count")
        in_flight = client.prediction.Predict.future(busy, timeout=SECONDS)
        client.predict(predict_request())
        assert not in_flight.done()  # or the test shows nothing
        process.send_signal(signal.SIGTERM)
        assert in_flight.result().outputs["counted"].int_val[0] == 100_000
        assert process.wait(SECONDS) == 0
        log = process.stderr.read().splitlines()
        assert len(log) == 2, log  # nothing of TensorFlow's own
        assert "Loaded version 1 of scale in" in log[0]
        assert log[0].endswith("warmed up with 1 request")
        with pytest.raises(grpc.RpcError):
            client.predict(predict_request())


def test_broken_model_ends_the_process(tmp_path):
    (tmp_path / "1").mkdir()
    process = start("--port=0", "--model_name=broken", f"--model_base_path={tmp_path}")
    with ended_in_any_case(process):
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    logged, said = err.splitlines()
    assert "Version 1 of broken could not be loaded: Could not find SavedModel .pb" in logged
    assert (
        "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: {{name: "
        "broken version: 1} due to error: NOT_FOUND: Could not find SavedModel .pb" in said
    )
    assert not out


def test_taken_port_ends_the_process_at_once(tmp_path):
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        process = start(f"--port={port}", f"--model_base_path={tmp_path}")
        with ended_in_any_case(process):
            _, err = process.communicate(timeout=3)  # before TensorFlow could be loaded
    assert process.returncode == 1
    [line] = err.splitlines()
    assert f"port {port} is in use" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_base_path=/models", "--rest_api=1"], "unrecognized arguments: --rest_api=1"),
        (["--model_base_path=models/starter"], "to have an absolute path"),
        ([], "--model_base_path"),
        (["--model_base_path=/models", "--port=eighty"], "'eighty' is no whole number"),
        (["--model_base_path=/models", "--port=65536"], "no such port"),
        (["--model_base_path=/models", "--grpc_channel_arguments=a"], "not of the form key=value"),
    ],
)
def test_wrong_flag_is_one_line_and_exit_code_2(capsys, flags, message):
    from model_server.__main__ import main

    with pytest.raises(SystemExit) as caught:
        main(flags)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


# The module


def test_reading_a_large_tensor_does_not_parse_it(monkeypatch):
    monkeypatch.delattr(tf.io, "parse_tensor")  # the slow way, for typed fields
    image = np.random.default_rng(0).random((1, 299, 299, 3), np.float32)
    assert np.array_equal(tensors.read(tf.make_tensor_proto(image)), image)


def test_model_server_stands_alone():
    for path in (ROOT / "model_server").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & {"gateway", "tutorial"}, path
