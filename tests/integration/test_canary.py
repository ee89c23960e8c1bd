"""Two versions behind two labels, served with the manifests' own flags and configuration."""

import json
import os
import shutil

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import grpc
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_metadata_pb2 import GetModelMetadataRequest

from gateway.app import create_app
from tutorial import kubernetes, services
from tutorial.processes import free_port, wait_until

CONTRACT = json.loads(kubernetes.CONTRACT.read_text())
PICTURE = services.ROOT / "starter/samples/hat.jpg"


def save_version(folder, factor):
    """A model of pictures whose every score is `factor` times their brightness."""

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, "pictures")])
    def score(pictures):
        brightness = tf.reduce_mean(pictures, axis=(1, 2, 3)) + 2
        return {"scores": factor * brightness[:, None] * tf.ones((1, len(CONTRACT["labels"])))}

    tf.saved_model.save(tf.Module(), str(folder), signatures={"serving_default": score})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for version in (1, 2):
        save_version(folder / str(version), float(version))
    return folder


@pytest.fixture
def files(saved, tmp_path):
    """What a pod finds under /models and /versions."""
    models = tmp_path / "models" / CONTRACT["model_name"]
    shutil.copytree(saved, models)
    (tmp_path / "versions").mkdir()
    write_labels(tmp_path, stable=1, canary=2)
    return tmp_path


def write_labels(files, **labels):
    """The component's models.config, with the labels on these versions."""
    text = kubernetes.MODELS_CONFIG.read_text().replace("/models/", f"{files}/models/")
    for label, version in labels.items():
        before, key, after = text.partition(f'key: "{label}" value: ')
        assert key
        text = f"{before}{key}{version}{after[1:]}"
    draft = files / "versions" / "draft"
    draft.write_text(text)
    draft.rename(files / "versions" / kubernetes.MODELS_CONFIG.name)


@pytest.fixture
def served(files):
    """Start the canary's model Deployment as a process here; gives its gRPC port."""
    deployment = kubernetes.find(kubernetes.render_with("canary"), "Deployment", "model")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    port = free_port()
    command = services.model_server_command(files / "models" / CONTRACT["model_name"], port)
    for flag in container["args"]:
        flag = flag.replace("$(CPU_LIMIT)", "1")
        flag = flag.replace("=/config/", f"={services.ROOT}/serving/")
        command.append(flag.replace("=/versions/", f"={files}/versions/"))
    # Where a cluster replaces the pods for a new configuration, this server reads it again.
    command += ["--model_config_file_poll_wait_seconds=1", f"--rest_api_port={free_port()}"]
    servers = []

    def start():
        servers.append(services.start_model_server("canary", command, port))
        return port

    yield start
    for server in servers:
        server.stop()


def answering(port, label):
    """The version that answers for a label, or None."""
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = CONTRACT["model_name"]
    request.model_spec.version_label = label
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            return stub.GetModelMetadata(request, timeout=10).model_spec.version.value
        except grpc.RpcError as error:
            print(label, error.code(), error.details())
            return None


pytestmark = pytest.mark.skipif(not kubernetes.kubectl(), reason="there is no kubectl to render")


def test_compare_promote_and_roll_back(served, files):
    port = served()
    assert [answering(port, label) for label in ("stable", "canary")] == [1, 2]

    gateways = {
        version: create_app(
            MODEL_ADDRESS=f"127.0.0.1:{port}",
            CONTRACT=kubernetes.CONTRACT,
            MODEL_VERSION=version,
        ).test_client()
        for version in ("stable", "canary", "1", "2")
    }

    def brightness(version):
        with open(PICTURE, "rb") as picture:
            answer = gateways[version].post("/predict", data={"file": picture})
        assert answer.status_code == 200, answer.text
        return answer.json["hat"]

    assert brightness("canary") == pytest.approx(2 * brightness("stable"))
    assert (brightness("1"), brightness("2")) == (brightness("stable"), brightness("canary"))
    before, after = brightness("stable"), brightness("canary")

    write_labels(files, stable=2, canary=2)
    wait_until(lambda: brightness("stable") == after, timeout=20, what="the canary's promotion")
    write_labels(files, stable=1, canary=2)
    wait_until(lambda: brightness("stable") == before, timeout=20, what="the way back")
    assert brightness("canary") == after


def test_a_version_that_does_not_load_harms_nobody_but_those_who_ask_for_it(served, files):
    broken = files / "models" / CONTRACT["model_name"] / "2" / "saved_model.pb"
    broken.write_bytes(b"no model")
    port = served()
    assert [answering(port, label) for label in ("stable", "canary")] == [1, None]
