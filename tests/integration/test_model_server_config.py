"""Several models, version policies, labels, reloads: what a ModelServerConfig says is served."""

import os
import threading
import time

import grpc
import pytest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import tensorflow as tf

tf.get_logger().setLevel("ERROR")

from google.protobuf import text_format  # noqa: E402
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig  # noqa: E402

from model_server import config  # noqa: E402
from model_server.grpc_services import create_server  # noqa: E402
from model_server.repository import Repository  # noqa: E402
from model_server.versions import LoadOptions  # noqa: E402
from tests.integration.test_model_server import (  # noqa: E402
    INVALID,
    NOT_FOUND,
    SECONDS,
    Client,
    assert_refused,
    ended_in_any_case,
    metadata_request,
    predict_request,
    publish,
    saved,  # noqa: F401  (a fixture)
    start,
)
from tutorial.processes import wait_until  # noqa: E402

MODEL = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" {2} }}'
FAILED = grpc.StatusCode.FAILED_PRECONDITION


class Served:
    """A server in this process whose configuration the tests change."""

    def __init__(self, base, **settings):
        self.base = base
        self.repository = Repository(**settings)
        self.server, port = create_server(self.repository, "127.0.0.1:0")
        self.server.start()
        self.client = Client(port)

    def config(self, **models):
        text = " ".join(MODEL.format(name, self.base, more) for name, more in models.items())
        return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())

    def reload(self, **models):
        request = ReloadConfigRequest(config=self.config(**models))
        return self.client.model.HandleReloadConfigRequest(request, timeout=SECONDS)

    def versions(self, name="scale"):
        return [found[:2] for found in self.client.statuses(name)]

    def answering(self, **spec):
        return self.client.predict(predict_request(**spec)).model_spec.version.value


@pytest.fixture
def served(tmp_path):
    servers = []

    def serve(**settings):
        servers.append(Served(tmp_path, **settings))
        return servers[-1]

    yield serve
    for server in servers:
        server.client.channel.close()
        server.server.stop(None).wait()
        server.repository.close()


@pytest.fixture
def three(saved, tmp_path):  # noqa: F811
    for version in ("1", "2", "10"):
        publish(saved, tmp_path / "scale" / version)
    return tmp_path


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", [10]),
        ("model_version_policy { latest {} }", [10]),
        ("model_version_policy { latest { num_versions: 2 } }", [10, 2]),
        ("model_version_policy { all {} }", [10, 2, 1]),
        ("model_version_policy { specific { versions: 2 versions: 1 versions: 7 } }", [2, 1]),
    ],
)
def test_policy_says_which_versions_are_served(three, served, policy, versions):
    server = served()
    response = server.reload(scale=policy)
    assert response.HasField("status")
    assert response.status.error_code == 0
    assert server.versions() == [(version, "AVAILABLE") for version in versions]
    assert server.answering() == versions[0]
    assert [server.answering(version=version) for version in versions] == versions


def test_policy_can_be_changed_and_forth_and_back(three, served):
    server = served()
    server.reload(scale="model_version_policy { specific { versions: 1 } }")
    server.reload(scale="model_version_policy { latest { num_versions: 2 } }")
    assert server.versions() == [(10, "AVAILABLE"), (2, "AVAILABLE"), (1, "END")]
    server.reload(scale="model_version_policy { specific { versions: 1 } }")
    assert server.versions() == [(10, "END"), (2, "END"), (1, "AVAILABLE")]


def test_version_that_is_not_there_leaves_nothing_but_no_error(three, served):
    server = served()
    server.reload(scale="")
    server.reload(scale="model_version_policy { specific { versions: 3 } }")
    assert server.versions() == [(10, "END")]


def test_models_come_and_go(saved, three, served):  # noqa: F811
    publish(saved, three / "other" / "5")
    server = served()
    server.reload(scale="", other="")
    assert (server.answering(), server.answering(name="other")) == (10, 5)
    server.reload(other="")
    assert_refused(server.answering, NOT_FOUND, "Servable not found for request: Latest(scale)")
    assert server.versions() == [(10, "END")]
    assert server.answering(name="other") == 5
    server.reload(scale="")
    assert server.answering() == 10


LABELS = 'version_labels {{ key: "stable" value: {} }} version_labels {{ key: "canary" value: {} }}'
BOTH = "model_version_policy { latest { num_versions: 2 } } "


def test_labels_stand_for_versions_and_can_be_moved(three, served):
    server = served()
    server.reload(scale=BOTH)
    server.reload(scale=BOTH + LABELS.format(2, 10))
    assert [server.answering(label=label) for label in ("stable", "canary")] == [2, 10]
    assert [found[0] for found in server.client.statuses(label="stable")] == [2]
    request = metadata_request("signature_def")
    request.model_spec.version_label = "stable"
    response = server.client.prediction.GetModelMetadata(request, timeout=SECONDS)
    assert response.model_spec.version.value == 2

    server.reload(scale=BOTH + LABELS.format(10, 2))
    assert [server.answering(label=label) for label in ("stable", "canary")] == [10, 2]
    server.reload(scale=BOTH)
    assert_refused(
        lambda: server.answering(label="stable"),
        INVALID,
        "Unrecognized servable version label: stable",
    )


def test_label_for_an_unavailable_version_is_refused_and_changes_nothing(three, served):
    server = served()
    server.reload(scale=BOTH)
    server.reload(scale=BOTH + LABELS.format(2, 10))
    assert_refused(
        lambda: server.reload(scale=LABELS.format(2, 1)),
        FAILED,
        "Request to assign label to version 1 of model scale, which is not currently available for "
        "inference",
    )
    assert [server.answering(label=label) for label in ("stable", "canary")] == [2, 10]
    assert [state for _, state in server.versions()] == ["AVAILABLE"] * 2


def test_new_labels_may_stand_for_unavailable_versions_where_that_is_allowed(three, served):
    server = served(labels_for_unavailable=True)
    server.reload(scale=BOTH + LABELS.format(2, 1))
    assert server.answering(label="stable") == 2
    assert_refused(
        lambda: server.answering(label="canary"),
        NOT_FOUND,
        "Servable not found for request: Specific(scale, 1)",
    )
    with pytest.raises(grpc.RpcError, match="assign label to version 1"):
        server.reload(scale=BOTH + LABELS.format(1, 1))  # no request may lose what it has
    assert server.answering(label="stable") == 2


@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        (
            "",
            INVALID,
            "ServerModelConfig type not supported by HandleReloadConfigRequest. Only "
            "ModelConfigList is currently supported",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' model_platform: 'tensorflow' } "
            "config { name: 'a' base_path: '/b' model_platform: 'tensorflow' } }",
            INVALID,
            "Illegal to list model a multiple times in config list",
        ),
        (
            "model_config_list { config { name: 'a' base_path: 'a' model_platform: 'tensorflow' }}",
            INVALID,
            "Expected model a to have an absolute path or URI; got base_path()=a",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' } }",
            INVALID,
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            "ModelServerConfig::model_platform.",
        ),
        (
            "model_config_list { config { name: 'a' base_path: '/a' model_platform: 'onnx' } }",
            INVALID,
            "Model a requests unsupported platform onnx",
        ),
    ],
)
def test_refused_configuration_changes_nothing(three, served, text, code, details):
    server = served()
    server.reload(scale="")
    request = ReloadConfigRequest(config=text_format.Parse(text, ModelServerConfig()))
    reload = server.client.model.HandleReloadConfigRequest
    assert_refused(lambda: reload(request, timeout=SECONDS), code, details)
    assert server.answering() == 10


def test_reload_says_which_new_model_cannot_be_loaded(three, served):
    (three / "broken" / "1").mkdir(parents=True)
    server = served()
    server.reload(scale="")
    with pytest.raises(grpc.RpcError) as caught:
        server.reload(scale="", broken="")
    assert caught.value.code() == grpc.StatusCode.UNKNOWN
    assert "1 servable(s) did not become available: {{name: broken version: 1} due to error: " in (
        caught.value.details()
    )
    assert server.answering() == 10


def test_reload_waits_for_a_new_model_and_holds_up_no_other(saved, three, served):  # noqa: F811
    server = served()
    server.repository.watch(0.05)
    later = ReloadConfigRequest(config=server.config(late=""))
    waiting = server.client.model.HandleReloadConfigRequest.future(later, timeout=SECONDS)
    wait_until(lambda: "late" in server.repository._models, timeout=SECONDS, what="the reload")
    publish(saved, three / "late" / "1")
    waiting.result()
    assert server.answering(name="late") == 1
    never = ReloadConfigRequest(config=server.config(late="", never=""))
    with pytest.raises(grpc.RpcError) as caught:
        server.client.model.HandleReloadConfigRequest(never, timeout=0.5)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    server.reload(scale="")
    assert server.answering() == 10


# Loading


def test_failed_load_is_tried_again_before_it_is_an_error(saved, tmp_path, served):  # noqa: F811
    (tmp_path / "scale" / "1").mkdir(parents=True)
    server = served(options=LoadOptions(retries=2, retry_seconds=0.2))
    server.repository.reload(server.config(scale=""))
    started = time.monotonic()
    assert server.versions() == [(1, "LOADING")]
    server.repository.watch(0.02)
    wait_until(lambda: server.versions() == [(1, "END")], timeout=SECONDS, what="giving up")
    assert time.monotonic() - started > 0.35
    assert server.client.statuses()[0][2].error_code == NOT_FOUND.value[0]


def test_warmup_requests_are_run_as_often_as_told(three, monkeypatch):
    from model_server.runtime.servable import Servable
    from model_server.versions import Model
    from tests import saved_models

    saved_models.write_warmup(three / "scale" / "10", [predict_request()] * 2)
    calls = []
    monkeypatch.setattr(Servable, "predict", lambda *request: calls.append(request))
    for iterations, expected in [(3, 6), (0, 0)]:
        model = Model("scale", three / "scale", options=LoadOptions(warmup_iterations=iterations))
        model.poll()
        model.unload()
        assert len(calls) == expected
        calls.clear()


# Files


def test_file_that_is_no_configuration(tmp_path):
    file = tmp_path / "models.config"
    file.write_text("improperly formatted file")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        config.read_models(file)
    assert caught.value.message.startswith(
        "Error parsing text-format tensorflow.serving.ModelServerConfig: 1:1"
    )
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid protobuf file"):
        config.read_models(file)
    with pytest.raises(tf.errors.NotFoundError, match="No such file"):
        config.read_models(tmp_path / "none")


def test_changed_file_is_read_again_and_a_bad_one_changes_nothing(three, served, tmp_path, caplog):
    server, file = served(), tmp_path / "models.config"
    file.write_text(text_format.MessageToString(server.config(scale="")))
    server.repository.watch_config(file, 0.05)
    wait_until(lambda: _known(server), timeout=SECONDS, what="version 10")
    for bad in ("improperly formatted file", ""):
        file.write_text(bad)
        time.sleep(0.2)
        assert server.answering() == 10
    assert sum("Error parsing text-format" in line for line in caplog.messages) == 1  # said once
    policy = "model_version_policy { specific { versions: 1 } }"
    file.write_text(text_format.MessageToString(server.config(scale=policy)))
    wait_until(
        lambda: server.versions() == [(10, "END"), (1, "AVAILABLE")],
        timeout=SECONDS,
        what="version 1",
    )


def _known(server):
    try:
        return server.versions() == [(10, "AVAILABLE")]
    except grpc.RpcError:
        return False


# The process


def test_process_with_a_configuration_file(three, tmp_path):
    file, socket = tmp_path / "models.config", tmp_path / "s"
    models = MODEL.format("scale", three, BOTH + LABELS.format(2, 10))
    file.write_text(f"model_config_list: {{ {models} }}")
    process = start(
        "--port=0",
        f"--model_config_file={file}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
        f"--grpc_socket_path={socket}",
        "--tensorflow_intra_op_parallelism=1",
        "--max_num_load_retries=0",
        "--enable_batching=true",
    )
    with ended_in_any_case(process):
        assert process.stdout.readline(), process.stderr.read()
        assert (
            process.stdout.readline() == f"Running gRPC ModelServer at UNIX socket {socket} ...\n"
        )
        client = Client(0, f"unix:{socket}")
        answer = client.predict(predict_request(label="stable"))
        assert answer.model_spec.version.value == 2
        process.terminate()
        assert process.wait(SECONDS) == 0


def test_socket_path_is_taken_over_from_a_server_that_left_it(saved, tmp_path):  # noqa: F811
    path = tmp_path / "s"
    for _ in range(2):  # the second finds the file, and perhaps the first still there
        server, _ = create_server(Repository(), "127.0.0.1:0", socket_path=str(path))
        server.start()
    client = Client(0, f"unix:{path}")
    details = "Servable not found for request: Latest(scale)"
    assert_refused(lambda: client.predict(predict_request()), NOT_FOUND, details)
    server.stop(None)


def test_socket_path_that_cannot_be(tmp_path):
    with pytest.raises(RuntimeError, match="unix:"):
        create_server(Repository(), "127.0.0.1:0", socket_path=str(tmp_path / "none" / "s"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("improperly formatted file", "Error parsing text-format tensorflow.serving.ModelServer"),
        (
            f"model_config_list {{ {MODEL.format('m', '/none', LABELS.format(1, 1))} }}",
            "Error: FAILED_PRECONDITION: Request to assign label to version 1 of model m, which is",
        ),
    ],
    ids=["bad", "labels"],
)
def test_process_that_cannot_start_says_why(tmp_path, text, said):
    file = tmp_path / "models.config"
    file.write_text(text)
    process = start("--port=0", f"--model_config_file={file}")
    with ended_in_any_case(process):
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    [line] = err.splitlines()
    assert said in line


def test_process_waits_for_the_first_version_and_ends_when_told(saved, tmp_path):  # noqa: F811
    flags = "--port=0", "--model_name=scale", f"--model_base_path={tmp_path / 'scale'}"
    waiting, ended = start(*flags), start(*flags)
    with ended_in_any_case(waiting), ended_in_any_case(ended):
        for process in (waiting, ended):
            assert "Could not find base path" in process.stderr.readline()
        ended.terminate()
        assert ended.wait(SECONDS) == 0
        ready = threading.Event()
        threading.Thread(target=lambda: waiting.stdout.readline() and ready.set()).start()
        assert not ready.wait(0.5)
        publish(saved, tmp_path / "scale" / "1")
        assert ready.wait(SECONDS)
