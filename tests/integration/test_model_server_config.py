"""Several models, version policies, labels, reloads: what a ModelServerConfig says is served."""

import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from unittest import mock

import grpc
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server import config, errors, repository
from tests import saved_models
from tests.serving import (
    MODEL,
    SECONDS,
    Client,
    client_of,
    model_spec,
    publish,
    refused,
    serving,
    soon,
    started,
)

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED = grpc.StatusCode.FAILED_PRECONDITION
LABELS = 'version_labels {{ key: "stable" value: {} }} version_labels {{ key: "canary" value: {} }}'
BOTH = "model_version_policy { latest { num_versions: 2 } } "
ONLY_1 = "model_version_policy { specific { versions: 1 } }"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return saved_models.save_scale(tmp_path_factory.mktemp("saved") / "scale")


@pytest.fixture
def three(saved, tmp_path):
    """A folder with versions 1, 2 and 10 of `scale`."""
    for version in ("1", "2", "10"):
        publish(saved, tmp_path / "scale" / version)
    return tmp_path


@pytest.fixture
def served(three):
    """A server whose configuration the tests change; nothing is served yet."""
    with serving(three) as served:
        yield served


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [10]),
        ("model_version_policy { latest {} }", [10]),
        (BOTH, [10, 2]),
        ("model_version_policy { all {} }", [10, 2, 1]),
        ("model_version_policy { specific { versions: 2 versions: 1 versions: 7 } }", [2, 1]),
    ],
)
def test_policy_says_which_versions_are_served(served, policy, versions):
    response = served.reload(scale=policy)
    assert response.HasField("status")
    assert response.status.error_code == 0
    assert served.client.versions() == [(version, "AVAILABLE") for version in versions]
    assert served.client.answering() == versions[0]
    assert [served.client.answering(version=version) for version in versions] == versions


def test_policy_can_be_changed_and_forth_and_back(served):
    served.reload(scale=ONLY_1)
    served.reload(scale=BOTH)
    assert served.client.versions() == [(10, "AVAILABLE"), (2, "AVAILABLE"), (1, "END")]
    served.reload(scale=ONLY_1)
    assert served.client.versions() == [(10, "END"), (2, "END"), (1, "AVAILABLE")]
    served.reload(scale="model_version_policy { specific { versions: 3 } }")  # is not there
    assert served.client.versions() == [(10, "END"), (2, "END"), (1, "END")]


def test_models_come_and_go(saved, three, served):
    publish(saved, three / "other" / "5")
    served.reload(scale="", other="")
    assert (served.client.answering(), served.client.answering(name="other")) == (10, 5)
    served.reload(other="")
    with refused(NOT_FOUND, '"scale"'):
        served.client.answering()
    assert served.client.versions() == [(10, "END")]
    assert served.client.answering(name="other") == 5
    served.reload(scale="")
    assert served.client.answering() == 10


def test_labels_stand_for_versions_and_can_be_moved(served):
    client = served.client
    served.reload(scale=BOTH)
    served.reload(scale=BOTH + LABELS.format(2, 10))
    assert [client.answering(label=label) for label in ("stable", "canary")] == [2, 10]
    assert client.versions(label="stable") == [(2, "AVAILABLE")]
    spec = model_spec(label="stable")
    request = GetModelMetadataRequest(metadata_field=["signature_def"], model_spec=spec)
    response = client.prediction.GetModelMetadata(request, timeout=SECONDS)
    assert response.model_spec.version.value == 2

    served.reload(scale=BOTH + LABELS.format(10, 2))
    assert [client.answering(label=label) for label in ("stable", "canary")] == [10, 2]
    served.reload(scale=BOTH)
    with refused(INVALID, '"stable"'):
        client.answering(label="stable")


def test_label_that_moves_while_a_request_looks_it_up_loses_nothing():
    models = repository.Repository(mock.Mock())
    moved = {"stable": 1}

    @contextmanager
    def lease(version):
        if version == 1:  # it has been unloaded just now
            moved["stable"] = 2
            raise errors.NotFound("version 1 is not served here")
        yield version, mock.Mock()

    models._models["scale"] = mock.Mock(lease=lease)
    models._labels = lambda name: moved
    with models.lease(model_spec(label="stable")) as (version, _):
        assert version == 2
    with pytest.raises(tf.errors.NotFoundError), models.lease(model_spec(version=1)):
        pass


def test_label_for_an_unavailable_version_is_refused_and_changes_nothing(served):
    with refused(FAILED, "version"):  # nothing is loaded yet
        served.reload(scale=BOTH + LABELS.format(2, 10))
    served.reload(scale=BOTH)
    served.reload(scale=BOTH + LABELS.format(2, 10))
    with refused(FAILED, "version 1"):
        served.reload(scale=LABELS.format(2, 1))
    assert [served.client.answering(label=label) for label in ("stable", "canary")] == [2, 10]
    assert [state for _, state in served.client.versions()] == ["AVAILABLE"] * 2


def test_new_labels_may_stand_for_unavailable_versions_where_that_is_allowed(three):
    with serving(three, labels_for_unavailable=True) as served:
        served.reload(scale=BOTH + LABELS.format(2, 1))
        assert served.client.answering(label="stable") == 2
        with refused(NOT_FOUND):
            served.client.answering(label="canary")
        with refused(FAILED):
            served.reload(scale=BOTH + LABELS.format(1, 1))  # stable would lose what it has
        assert served.client.answering(label="stable") == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "model_config_list"),
        (MODEL.format("a", "/m", "") * 2, '"a" is listed twice'),
        (MODEL.format("a", "m", ""), '"m/a"'),
        ("config { name: 'a' base_path: '/a' }", "model_platform"),
        ("config { name: 'a' base_path: '/a' model_platform: 'onnx' }", '"onnx"'),
    ],
)
def test_refused_configuration_changes_nothing(served, text, named):
    served.reload(scale="")
    listed = f"model_config_list {{ {text} }}" if text else ""
    request = ReloadConfigRequest(config=text_format.Parse(listed, ModelServerConfig()))
    with refused(INVALID, named):
        served.client.model.HandleReloadConfigRequest(request, timeout=SECONDS)
    assert served.client.answering() == 10


def test_reload_loads_no_model_from_elsewhere(three):
    with serving(three, "scale") as served:
        request = ReloadConfigRequest(config=served.config(scale=""))
        request.config.model_config_list.config[0].base_path = "/etc/scale"
        with refused(INVALID, f'model "scale" is in /etc; allowed: {three}'):
            served.client.model.HandleReloadConfigRequest(request, timeout=SECONDS)
        assert served.client.answering() == 10


@pytest.mark.parametrize(
    ("base_path", "folder"),
    [("/models/pets", "/models"), ("/models/x/../../etc/pets", "/etc"), ("/pets", "/pets")],
)
def test_reload_is_allowed_beside_the_models_of_the_start(base_path, folder):
    assert repository._folder_of(base_path) == Path(folder)


def test_first_reload_decides_where_a_server_without_models_may_look(tmp_path):
    models = repository.Repository(load=lambda folder: None)
    models.reload(config.single_model("one", tmp_path / "a" / "one"), from_caller=True)
    models.reload(config.single_model("two", tmp_path / "a" / "two"), from_caller=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"allowed: {tmp_path / 'a'}"):
        models.reload(config.single_model("two", tmp_path / "b" / "two"), from_caller=True)


def test_reload_says_which_new_model_cannot_be_loaded(three, served):
    (three / "broken" / "1").mkdir(parents=True)
    served.reload(scale="")
    with refused(grpc.StatusCode.UNKNOWN, "version 1 of broken"):
        served.reload(scale="", broken="")
    assert served.client.answering() == 10


def test_reload_waits_for_a_new_model_and_blocks_no_other(saved, three, served):
    served.repository.repeat(served.repository.poll, 0.05)
    later = ReloadConfigRequest(config=served.config(late=""))
    waiting = served.client.model.HandleReloadConfigRequest.future(later, timeout=SECONDS)
    soon(lambda: "late" in served.repository._models)
    publish(saved, three / "late" / "1")
    waiting.result()
    assert served.client.answering(name="late") == 1
    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        served.reload(timeout=0.5, late="", never="")
    served.reload(scale="")
    assert served.client.answering() == 10


# Files


def test_changed_file_is_read_again_and_a_bad_one_changes_nothing(served, tmp_path, caplog):
    file = tmp_path / "models.config"
    served.reload(scale="")
    file.write_text(text_format.MessageToString(served.config(scale="")))
    served.repository.repeat(lambda: served.repository.reload(config.read_models(file)), 0.05)
    for bad in ("improperly formatted file", ""):
        file.write_text(bad)
        time.sleep(0.2)
        assert served.client.answering() == 10
    assert any("ModelServerConfig" in line for line in caplog.messages)
    file.write_text(text_format.MessageToString(served.config(scale=ONLY_1)))
    soon(lambda: served.client.versions() == [(10, "END"), (1, "AVAILABLE")])


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ('prometheus_config: {\n enable: true,\n path: "/metrics"\n}', "/metrics"),
        ('prometheus_config { path: "/metrics" }', None),
        ("", None),
    ],
)
def test_metrics_are_served_only_where_the_file_says(tmp_path, text, path):
    (tmp_path / "monitoring.config").write_text(text)
    assert config.read_metrics_path(tmp_path / "monitoring.config") == path


# The process


def test_process_takes_a_configuration_file_a_socket_and_channel_arguments(three, tmp_path):
    file, socket = tmp_path / "models.config", tmp_path / "s"
    models = MODEL.format("scale", three, BOTH + LABELS.format(2, 10))
    file.write_text(f"model_config_list: {{ {models} }}")
    with started(
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
        f"--grpc_socket_path={socket}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=300,grpc.lb_policy_name=x",
        "--tensorflow_intra_op_parallelism=1",
        "--enable_batching=true",
    ) as process:
        client, states = client_of(process), Queue()
        client.channel.subscribe(states.put)
        assert client.answering() == 10
        for state in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.IDLE):
            soon(lambda state=state: states.get(timeout=SECONDS) == state)

        assert str(socket) in process.stdout.readline()
        client = Client(f"unix:{socket}")
        assert client.answering(label="stable") == 2
        file.write_text(file.read_text().replace('"stable" value: 2', '"stable" value: 10'))
        soon(lambda: client.answering(label="stable") == 10)
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_file_is_read_once_without_polling(three, tmp_path):
    file = tmp_path / "models.config"
    text = f"model_config_list: {{ {MODEL.format('scale', three, ONLY_1)} }}"
    file.write_text(text)
    with started(f"--model_config_file={file}", "--file_system_poll_wait_seconds=0") as process:
        client = client_of(process)
        file.write_text(text.replace("versions: 1", "versions: 2"))
        time.sleep(1.5)
        assert client.versions() == [(1, "AVAILABLE")]


def test_process_waits_for_the_first_version_and_ends_when_told(saved, tmp_path):
    flags = "--model_name=scale", f"--model_base_path={tmp_path / 'scale'}"
    with ThreadPoolExecutor() as pool, started(*flags) as waiting, started(*flags) as ended:
        for process in (waiting, ended):
            assert str(tmp_path / "scale") in process.stderr.readline()
        ended.terminate()
        assert ended.wait(SECONDS) == 0
        ready = pool.submit(client_of, waiting)
        time.sleep(0.5)
        assert not ready.done()
        publish(saved, tmp_path / "scale" / "1")
        assert ready.result(SECONDS).answering() == 1


@pytest.mark.timed
def test_process_ends_within_5_seconds_although_a_client_vanished(saved, tmp_path):
    """A client whose machine lost its network: its connection stays, and it answers no ping."""
    publish(saved, tmp_path / "scale" / "1")
    with started("--model_name=scale", f"--model_base_path={tmp_path / 'scale'}") as process:
        port = re.search(r":(\d+) \.\.\.", process.stdout.readline())[1]
        with socket.create_connection(("127.0.0.1", int(port))) as client:
            no_settings = b"\0\0\0\4\0\0\0\0\0"
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_settings)
            assert client.recv(1)  # the server has seen an HTTP/2 client
            process.terminate()
            assert process.wait(5) == 0
