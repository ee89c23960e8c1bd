"""Model servers for tests, in this process or in another, and a client for them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server.engines.tensorflow import TensorFlowEngine
from model_server.grpc_services import create_server
from model_server.repository import Repository
from model_server.servable import Servable

tf.get_logger().setLevel("ERROR")

ROOT = Path(__file__).parents[1]
SECONDS = 20  # for one call, and for what a server should do soon
MODEL = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" {2} }}'


class Client:
    """Calls both services of a server on this machine."""

    def __init__(self, port, address=None):
        self.port = int(port)
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address or f"127.0.0.1:{port}", options=options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request, timeout=SECONDS):
        return self.prediction.Predict(request, timeout=timeout)

    def answering(self, **spec):
        """Return the version that answers a prediction."""
        return self.predict(predict_request(**spec)).model_spec.version.value

    def statuses(self, name="scale", **spec):
        request = GetModelStatusRequest()
        fill_spec(request.model_spec, name=name, **spec)
        return self.model.GetModelStatus(request, timeout=SECONDS).model_version_status

    def versions(self, name="scale", **spec):
        return [
            (found.version, ModelVersionStatus.State.Name(found.state))
            for found in self.statuses(name, **spec)
        ]


class Served:
    """A server in this process, for models under the folder `base`."""

    def __init__(self, base, load, **options):
        self.base = base
        self.repository = Repository(load, **options)
        self._server, port = create_server(self.repository, "127.0.0.1:0")
        self._server.start()
        self.client = Client(port)

    def config(self, **models):
        """Return the configuration that lists models, each with further text for its entry."""
        text = " ".join(MODEL.format(name, self.base, more) for name, more in models.items())
        return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())

    def reload(self, timeout=SECONDS, **models):
        request = ReloadConfigRequest(config=self.config(**models))
        return self.client.model.HandleReloadConfigRequest(request, timeout=timeout)

    def close(self):
        self.client.channel.close()
        self._server.stop(None).wait()
        self.repository.close()


def load(path, batching=None):
    return Servable(TensorFlowEngine(path), batching)


@contextlib.contextmanager
def serving(base, *names, load=load, **options):
    """Serve the newest versions of models in this process; yield a Served."""
    served = Served(base, load, **options)
    try:
        served.repository.reload(served.config(**dict.fromkeys(names, "")))
        yield served
    finally:
        served.close()


def publish(saved, folder):
    """Let a version folder appear in one step, as a careful exporter does."""
    half_done = folder.parent.parent / f"half-done-{folder.name}"
    shutil.copytree(saved, half_done)
    folder.parent.mkdir(exist_ok=True)
    half_done.rename(folder)


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


def status(call):
    """Return the status of a call, OK or not."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def assert_refused(call, code, *named):
    """Check that a call ends with a status whose details name certain things."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code, caught.value.details()
    for text in named:
        assert text in caught.value.details()


def start(*flags):
    """Start a model server as a process."""
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
