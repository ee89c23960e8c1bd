"""Two versions behind two labels, served with the manifests' own flags and configuration."""

import functools
import json
import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import requests
import tensorflow as tf

from gateway.app import create_app
from tests.cluster import check
from tutorial import kubernetes, services
from tutorial.processes import free_port, wait_until

CONTRACT = json.loads(kubernetes.CONTRACT.read_text())
PICTURE = services.ROOT / "starter/samples/hat.jpg"


def save_version(folder, version):
    """A model of pictures whose every score is `version` times their brightness."""

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, "pictures")])
    def score(pictures):
        brightness = tf.reduce_mean(pictures, axis=(1, 2, 3)) + 2
        return {"scores": version * brightness[:, None] * tf.ones((1, len(CONTRACT["labels"])))}

    tf.saved_model.save(tf.Module(), str(folder / str(version)), signatures=score)


@pytest.fixture
def files(tmp_path):
    """What a pod finds under /models and /versions; of version 2 no more than half a download."""
    models = tmp_path / "models" / CONTRACT["model_name"]
    for version in (1, 2):
        save_version(models, version)
    (models / "2/saved_model.pb").rename(tmp_path / "rest of the download")
    (models / "2/saved_model.pb").write_bytes(b"half a download")
    (tmp_path / "versions").mkdir()
    text = kubernetes.MODELS_CONFIG.read_text().replace("/models/", f"{tmp_path}/models/")
    (tmp_path / "versions" / kubernetes.MODELS_CONFIG.name).write_text(text)
    return tmp_path


@pytest.fixture
def ports(files):
    """The canary's model Deployment as a process here: its ports for gRPC and REST."""
    deployment = kubernetes.find(kubernetes.render_with("canary"), "Deployment", "model")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    port, rest_port = free_port(), free_port()
    command = services.model_server_command(files / "models" / CONTRACT["model_name"], port)
    for flag in container["args"]:
        flag = flag.replace("$(CPU_LIMIT)", "1")
        flag = flag.replace("=/config/", f"={services.ROOT}/serving/")
        command.append(flag.replace("=/versions/", f"={files}/versions/"))
    command.append(f"--rest_api_port={rest_port}")
    with services.start_model_server("canary", command, port):
        yield port, rest_port


@pytest.fixture
def brightness(ports):
    """A function: the score that a gateway with this setting of MODEL_VERSION gives a picture."""

    @functools.cache
    def gateway(version):
        return create_app(
            MODEL_ADDRESS=f"127.0.0.1:{ports[0]}",
            CONTRACT=kubernetes.CONTRACT,
            MODEL_VERSION=version,
        ).test_client()

    def ask(version):
        with open(PICTURE, "rb") as picture:
            answer = gateway(version).post("/predict", data={"file": picture})
        return answer.json["hat"] if answer.status_code == 200 else answer.status_code

    return ask


def test_second_version_arrives_and_each_gateway_asks_for_its_own(ports, brightness, files):
    # Half a download: requests for the canary fail, all others are answered.
    one = brightness("stable")
    assert brightness("canary") in (502, 503)

    # Whole: each gateway its own version, by label or by number.
    model = files / "models" / CONTRACT["model_name"] / "2/saved_model.pb"
    (files / "rest of the download").rename(model)
    wait_until(lambda: brightness("canary") not in (502, 503), timeout=20, what="the canary")
    two = brightness("canary")
    assert two == pytest.approx(2 * one)
    assert [brightness(version) for version in ("stable", "1", "2")] == [one, one, two]

    # What the cluster check looks at: metrics and metadata.
    base = f"http://127.0.0.1:{ports[1]}"
    metrics = requests.get(f"{base}/monitoring/prometheus/metrics", timeout=10).text
    assert sum(map(float, check.REQUESTS.findall(metrics))) > 0
    metadata = requests.get(f"{base}/v1/models/{CONTRACT['model_name']}/metadata", timeout=10)
    assert int(metadata.json()["model_spec"]["version"]) == 2
