"""The model server over gRPC: predictions, metadata, status, versions, warm-up, the process."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest, SignatureDefMap
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from model_server.grpc_services import create_server
from model_server.servable import Servable
from model_server.versions import Model
from tests import saved_models
from tests.serving import (
    SECONDS,
    load,
    model_spec,
    predict_request,
    publish,
    refused,
    serving,
    soon,
    started,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED = grpc.StatusCode.FAILED_PRECONDITION


def tensor(dtype=1, shape=(1, 3), **fields):
    """Build a TensorProto (1: DT_FLOAT), valid or not."""
    dims = [{"size": size} for size in shape]
    return TensorProto(dtype=dtype, tensor_shape={"dim": dims}, **fields)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """One SavedModel, saved once; tests copy it."""
    return saved_models.save_scale(tmp_path_factory.mktemp("saved") / "scale")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with `scale` in version 7."""
    base = tmp_path_factory.mktemp("served")
    saved_models.save_scale(base / "scale" / "7", echoes=True)
    return base


@pytest.fixture(scope="module")
def client(base):
    with serving(base, "scale") as served:
        yield served.client


@pytest.fixture
def scale(saved, tmp_path):
    """The folder of a model `scale`, in version 1."""
    publish(saved, tmp_path / "scale" / "1")
    return tmp_path / "scale"


@pytest.fixture
def served(scale):
    """A server of that folder."""
    with serving(scale.parent, "scale") as served:
        yield served


# Predict: answers


def test_prediction_names_model_version_and_signature(client):
    response = client.predict(predict_request({"x": np.float32([[1, 2, 3], [4, 5, 6]])}))
    scaled, total = response.outputs["scaled"], response.outputs["total"]
    assert list(scaled.float_val) == [2, 4, 6, 8, 10, 12]
    assert [dim.size for dim in scaled.tensor_shape.dim] == [2, 3]
    assert not scaled.tensor_content  # TensorFlow Serving answers in the typed fields
    assert list(total.float_val) == [6, 15]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("scale", 7, "serving_default")


def test_output_filter_limits_an_answer_that_has_no_deadline(client):
    response = client.prediction.Predict(predict_request(outputs=["total"]))
    assert set(response.outputs) == {"total"}


def test_strings_and_tables(client):
    request = predict_request({"text": [b"a", b"\xff\x00", b""]}, signature="words")
    response = client.predict(request)
    assert list(response.outputs["upper"].string_val) == [b"A", b"\xff\x00", b""]
    assert list(response.outputs["found"].int64_val) == [1, -1, -1]


@pytest.mark.parametrize("dtype", saved_models.NUMBERS, ids=lambda dtype: dtype.name)
def test_every_number_dtype_there_and_back(client, dtype):
    value = np.array([[0, 1], [1, 3]]).astype(dtype.as_numpy_dtype)
    packed = tensor(dtype.as_datatype_enum, value.shape, tensor_content=value.tobytes())
    request = predict_request({}, signature=f"echo_{dtype.name}")
    request.inputs["value"].CopyFrom(packed)
    answer = client.predict(request).outputs["value"]
    assert not answer.tensor_content
    np.testing.assert_array_equal(tf.make_ndarray(answer), value, strict=True)

    request.inputs["value"].CopyFrom(answer)  # and now in the typed fields
    assert client.predict(request).outputs["value"] == answer


@pytest.mark.parametrize("value", [b"scalar", [[b"a", b""], [b"\xff", "ä".encode()]]])
def test_string_shapes(client, value):
    request = predict_request({"value": np.array(value, object)}, signature="echo_string")
    assert client.predict(request).outputs["value"] == request.inputs["value"]


def test_empty_batch(client):
    response = client.predict(predict_request({"x": np.zeros((0, 3), np.float32)}))
    assert [dim.size for dim in response.outputs["scaled"].tensor_shape.dim] == [0, 3]


def test_message_larger_than_grpcs_default_limit(client):
    image = np.ones((5, 299, 299, 3), np.float32)  # 5.4 MB, the default limit is 4 MiB
    request = predict_request({"value": image}, signature="echo_float32")
    assert len(client.predict(request).outputs["value"].float_val) == image.size


# Refusals

X = np.ones((1, 3), np.float32)


def metadata_request(*fields, **spec):
    return GetModelMetadataRequest(metadata_field=fields, model_spec=model_spec(**spec))


def status_request(**spec):
    return GetModelStatusRequest(model_spec=model_spec(**spec))


@pytest.mark.parametrize(
    ("request_", "code", "named"),
    [
        (PredictRequest(), INVALID, "model_spec.name"),
        (predict_request(name="no"), NOT_FOUND, '"no"'),
        (predict_request(version=8), NOT_FOUND, "version 8"),
        (predict_request(label="best"), INVALID, '"best"'),
        (predict_request(signature="no"), FAILED, "serving_default"),
        (predict_request({}, signature="__saved_model_init_op"), INVALID, "NoOp"),
        (predict_request({}), INVALID, "inputs x; got none"),
        (predict_request({"x": X, "y": X}), INVALID, "inputs x; got x, y"),
        (predict_request({"x": X.astype(np.int32)}), INVALID, "int32"),
        (predict_request({"x": X[:, :1]}, outputs=["total"]), INVALID, "[1,1]"),
        (predict_request(outputs=["dense_7"]), INVALID, "scaled, total"),
        (predict_request(outputs=["total", "total"]), INVALID, "total"),
        (predict_request(signature="s" * 9999), FAILED, "sss"),
        (metadata_request(), INVALID, "signature_def"),
        (metadata_request("graph_def"), INVALID, "graph_def"),
        (status_request(name="no"), NOT_FOUND, '"no"'),
        (status_request(version=8), NOT_FOUND, "version 8"),
    ],
)
def test_refused_request(client, request_, code, named):
    method = {
        PredictRequest: client.prediction.Predict,
        GetModelMetadataRequest: client.prediction.GetModelMetadata,
        GetModelStatusRequest: client.model.GetModelStatus,
    }[type(request_)]
    with refused(code, named):
        method(request_)
    client.predict(predict_request())


@pytest.mark.parametrize(
    "bad",
    [
        tensor(tensor_content=b"12345"),
        tensor(tensor_content=bytes(16)),
        tensor(tensor_content=bytes(12), shape=(-1, 3)),
        tensor(shape=(2**40, 2**40)),
        tensor(shape=(1900, 299, 299, 3), float_val=[1]),  # a few bytes that ask for 2 GB
        tensor(shape=(1,) * 300, float_val=[1]),
        tensor(float_val=[1, 2, 3, 4]),
        tensor(dtype=0),
        tensor(dtype=999, float_val=[1]),
        tensor(dtype=20, float_val=[1]),  # a resource
        tensor(dtype=6, int_val=[300] * 3),  # an int8
        tensor(dtype=7, tensor_content=b"\xff\xff\xff\xff\xff"),  # strings
    ],
    ids=lambda bad: str(bad).replace("\n", " ")[:60],
)
def test_invalid_tensor_is_refused(client, bad):
    request = predict_request()
    request.inputs["x"].CopyFrom(bad)
    with refused(INVALID, '"x"'):
        client.predict(request)
    client.predict(predict_request())


def test_computation_ends_at_the_deadline(served):
    long = predict_request({"limit": np.int32(20_000_000)}, signature="count")
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        served.client.predict(long, timeout=0.3)
    begun = time.monotonic()
    served.reload()  # unloads the model: waits for the request, which would take minutes
    assert time.monotonic() - begun < 20


# GetModelMetadata, GetModelStatus, health, reflection


def test_metadata_is_the_signatures_of_the_saved_model(client, base):
    response = client.prediction.GetModelMetadata(metadata_request("signature_def"))
    assert (response.model_spec.name, response.model_spec.version.value) == ("scale", 7)
    signatures = SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    in_file = SavedModel.FromString((base / "scale/7/saved_model.pb").read_bytes()).meta_graphs[0]
    assert dict(signatures.signature_def) == dict(in_file.signature_def)


def test_status_of_all_versions_or_one(client):
    for spec in ({}, {"version": 7}):
        [found] = client.statuses(**spec)
        assert (found.version, found.state) == (7, ModelVersionStatus.AVAILABLE)
        assert found.HasField("status")
        assert (found.status.error_code, found.status.error_message) == (0, "")


def test_health(client):
    health = health_pb2_grpc.HealthStub(client.channel)
    response = health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
    assert response.status == health_pb2.HealthCheckResponse.SERVING
    with refused(grpc.StatusCode.UNIMPLEMENTED):  # an open call would delay the server's end
        next(health.Watch(health_pb2.HealthCheckRequest(), timeout=SECONDS))


def test_busy_server_is_healthy():
    go_on = threading.Event()
    busy = mock.Mock()
    busy.lease.side_effect = lambda spec: go_on.wait(SECONDS)
    server, port = create_server(busy, "127.0.0.1:0", max_threads=1)
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        calls = [predict.future(predict_request(), timeout=SECONDS) for _ in range(2)]
        soon(lambda: busy.lease.called)
        response = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=SECONDS / 2
        )
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        assert not any(call.done() for call in calls)
        go_on.set()
        server.stop(0).wait()


def test_reflection_describes_both_services(client):
    services = ProtoReflectionDescriptorDatabase(client.channel)
    listed = ["tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"]
    assert {*listed, "grpc.health.v1.Health"} < set(services.get_services())
    for name in listed:
        file = services.FindFileContainingSymbol(name)
        assert file.service[0].name == name.rsplit(".")[-1]


# Versions


def test_new_version_is_swapped_in_and_no_request_is_lost(served, saved, scale):
    stop = threading.Event()

    def ask():
        seen = set()
        while not stop.is_set():
            seen.add(served.client.answering())
        return seen

    with ThreadPoolExecutor() as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        served.repository.repeat(served.repository.poll, 0.05)
        publish(saved, scale / "12")  # not "2": numbers, not text, are compared
        try:
            soon(lambda: served.client.versions() == [(12, "AVAILABLE"), (1, "END")])
        finally:
            stop.set()
        assert set.union(*(seen.result() for seen in asking)) == {1, 12}
    with refused(NOT_FOUND):
        served.client.answering(version=1)


def test_old_version_is_unloaded_when_its_last_request_is_answered(served, saved, scale):
    spec = predict_request().model_spec
    with ThreadPoolExecutor() as pool:
        with served.repository.lease(spec) as (version, servable):
            publish(saved, scale / "2")
            poll = pool.submit(served.repository.poll)
            soon(lambda: served.client.versions() == [(2, "AVAILABLE"), (1, "UNLOADING")])
            assert version == 1
            assert servable.predict(predict_request()).outputs  # still there
            assert served.client.answering() == 2
        poll.result(SECONDS)
    assert served.client.versions() == [(2, "AVAILABLE"), (1, "END")]


def test_broken_version_leaves_the_old_one_until_its_files_change(served, saved, scale, caplog):
    broken, whole = scale / "2", scale.with_name("whole") / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"\xffnot a SavedModel")
    served.repository.poll()
    served.repository.poll()
    failures = [line for line in caplog.messages if "Version 2 of scale cannot be loaded" in line]
    assert len(failures) == 1  # it is tried once
    assert served.client.versions() == [(2, "END"), (1, "AVAILABLE")]
    failure = served.client.statuses()[0].status
    assert failure.error_code != 0
    assert "saved_model.pb" in failure.error_message
    assert served.client.answering() == 1

    publish(saved, whole)
    for name in ("saved_model.pb", "variables"):
        (whole / name).rename(broken / name)
    served.repository.poll()
    assert served.client.versions() == [(2, "AVAILABLE"), (1, "END")]
    assert served.client.answering() == 2


def test_removed_version_gives_way_to_the_next(served, saved, scale, tmp_path, caplog):
    publish(saved, scale / "2")
    served.repository.poll()
    (scale / "2").rename(tmp_path / "2")
    served.repository.poll()
    assert served.client.versions() == [(2, "END"), (1, "AVAILABLE")]
    (scale / "1").rename(tmp_path / "1")
    served.repository.poll()
    assert served.client.versions() == [(2, "END"), (1, "END")]
    with refused(NOT_FOUND):
        served.client.answering()
    (tmp_path / "1").rename(scale / "1")
    served.repository.poll()
    assert served.client.answering() == 1
    scale.rename(tmp_path / "gone")  # a disk that fails is not an order to stop
    served.repository.poll()
    assert str(scale) in caplog.messages[-1]
    assert served.client.answering() == 1


def test_empty_base_path_waits_for_a_version(saved, tmp_path, caplog):
    base = tmp_path / "scale"
    (base / "not-a-version").mkdir(parents=True)
    (base / "3").write_text("no folder")
    (base / str(2**63)).mkdir()  # one more than a version can be
    with serving(tmp_path, "scale") as served:
        served.repository.poll()
        assert f"{base} has no version of scale" in caplog.messages[0]
        with refused(NOT_FOUND):
            served.client.statuses()
        publish(saved, base / "1")
        served.repository.poll()
        assert served.client.answering() == 1


# Warm-up


def test_warmup_requests_are_run_before_a_version_is_available(scale, monkeypatch):
    request, seen = predict_request(name="any"), []
    of_another_kind = PredictionLog(classify_log={}).SerializeToString()  # is skipped
    saved_models.write_warmup(scale / "1", request, of_another_kind, request)
    model = Model("scale", load)

    def predict(self, request):
        seen.append((request, model.versions()[0][1].state))

    monkeypatch.setattr(Servable, "predict", predict)
    model.poll(ModelConfig(base_path=str(scale)))
    assert seen == [(request, ModelVersionStatus.LOADING)] * 2
    assert model.available() == [1]
    model.unload_all_but([])
    assert not model.available()


@pytest.mark.parametrize(
    ("records", "named"),
    [
        ([], "no TFRecord file"),
        ([b"\xff\xff"], "no TFRecord file of PredictionLogs"),
        ([predict_request(), predict_request(signature="no")], '"no"'),
    ],
    ids=["noise", "no log", "signature"],
)
def test_version_whose_warmup_fails_is_not_served(scale, records, named):
    saved_models.write_warmup(scale / "1", *records)
    if not records:
        file = scale / "1" / "assets.extra" / "tf_serving_warmup_requests"
        file.write_bytes(b"no TFRecord at all, just text")
    with serving(scale.parent, "scale") as served:
        [found] = served.client.statuses()
    assert found.state == ModelVersionStatus.END
    assert named in found.status.error_message


# The process


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model_base_path={path}"], "saved_model.pb"),
        (["--model_base_path={path}", "--port={port}"], "port {port} is in use"),
        (["--model_config_file={path}/bad"], "ModelServerConfig"),
        (["--model_config_file={path}/empty", "--grpc_socket_path=/none/s"], "unix:/none/s"),
    ],
    ids=["model", "port", "file", "socket"],
)
def test_process_that_cannot_start_says_why(tmp_path, flags, said):
    (tmp_path / "1").mkdir()
    (tmp_path / "bad").write_bytes(b"\xff no text")
    (tmp_path / "empty").write_text("model_config_list {}")
    with socket.create_server(("0.0.0.0", 0)) as other:
        names = {"path": tmp_path, "port": other.getsockname()[1]}
        with started(*(flag.format(**names) for flag in flags)) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.format(**names) in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model_base_path=/models", "--rest_api=1"], "--rest_api=1"),
        (["--model_base_path=models/starter"], "must be an absolute path"),
        ([], "--model_base_path"),
        (["--model_base_path=/models", "--port=eighty"], "'eighty'"),
        (["--model_base_path=/models", "--enable_batching=maybe"], "'maybe'"),
        (["--model_base_path=/models", "--batching_parameters_file=x"], "--enable_batching"),
        (["--model_base_path=/models", "--grpc_channel_arguments=a"], "not of the form key=value"),
    ],
)
def test_wrong_flag_is_one_line_and_exit_code_2(capsys, flags, message):
    from model_server.flags import parse

    with pytest.raises(SystemExit) as caught:
        parse(flags)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
