"""Model servers for tests, in this process or in another, and a client for them."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from model_server.engines.folding import fold
from model_server.engines.tensorflow import TensorFlowEngine
from model_server.grpc_services import create_server
from model_server.repository import Repository
from model_server.servable import Servable
from tutorial.processes import wait_until
from tutorial.services import ROOT

tf.get_logger().setLevel("ERROR")
gc.freeze()  # a server collects garbage when it closes a model: not that of all imports

SECONDS = 20  # for one call, and for what a server should do soon
ONES = {"x": np.ones((1, 3), np.float32)}  # for the model `scale`
MODEL = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" {2} }}'


class Client:
    """Calls both services of a server."""

    def __init__(self, address):
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.model = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def predict(self, request, timeout=SECONDS):
        return self.prediction.Predict(request, timeout=timeout)

    def answering(self, **spec):
        """Return the version that answers a prediction."""
        return self.predict(predict_request(**spec)).model_spec.version.value

    def statuses(self, **spec):
        request = GetModelStatusRequest(model_spec=model_spec(**spec))
        return self.model.GetModelStatus(request, timeout=SECONDS).model_version_status

    def versions(self, **spec):
        name_of = ModelVersionStatus.State.Name
        return [(found.version, name_of(found.state)) for found in self.statuses(**spec)]


@dataclass
class Served:
    """A server in this process, for models under the folder `base`."""

    base: Path
    repository: Repository
    client: Client

    def config(self, **models):
        """Return the configuration that lists models, each with further text for its entry."""
        text = " ".join(MODEL.format(name, self.base, more) for name, more in models.items())
        return text_format.Parse(f"model_config_list {{ {text} }}", ModelServerConfig())

    def reload(self, timeout=SECONDS, **models):
        request = ReloadConfigRequest(config=self.config(**models))
        return self.client.model.HandleReloadConfigRequest(request, timeout=timeout)


def load(path, batching=None):
    return Servable(TensorFlowEngine(path, fold(path)), batching)


@contextlib.contextmanager
def serving(base, *names, load=load, **options):
    """Serve the newest versions of models in this process; yield a Served."""
    repository = Repository(load, **options)
    server, port = create_server(repository, "127.0.0.1:0")
    server.start()
    served = Served(base, repository, Client(f"127.0.0.1:{port}"))
    try:
        repository.reload(served.config(**dict.fromkeys(names, "")))
        yield served
    finally:
        served.client.channel.close()
        server.stop(None).wait()
        repository.close()


def publish(saved, folder):
    """Let a version folder appear in one step, as a careful exporter does."""
    half_done = folder.parent.parent / f"half-done-{folder.name}"
    shutil.copytree(saved, half_done)
    folder.parent.mkdir(exist_ok=True)
    half_done.rename(folder)


def model_spec(name="scale", *, version=None, label=None, signature=""):
    number = None if version is None else {"value": version}
    return ModelSpec(name=name, version=number, version_label=label, signature_name=signature)


def predict_request(inputs=ONES, *, outputs=(), **spec):
    protos = {alias: tf.make_tensor_proto(value) for alias, value in inputs.items()}
    return PredictRequest(model_spec=model_spec(**spec), inputs=protos, output_filter=outputs)


def soon(check):
    """Wait until `check()` is true."""
    wait_until(check, timeout=SECONDS, interval=0.02, what="what the test checks")


@contextlib.contextmanager
def refused(code, *named):
    """Check that the block's call ends with a status whose details name certain things."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    assert caught.value.code() == code, caught.value.details()
    for text in named:
        assert text in caught.value.details()


@contextlib.contextmanager
def started(*flags):
    """Start a model server as a process, on a free port; it ends with the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "model_server", "--port=0", *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONFAULTHANDLER": "1"},  # says where it stands when aborted
    )
    try:
        yield process
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        print(process.communicate()[1])
        raise
    finally:
        process.kill()
        process.communicate()


def client_of(process):
    """Return a client of a started model server, when it is ready."""
    line = process.stdout.readline()
    assert line.startswith("Running gRPC ModelServer at 0.0.0.0:"), process.stderr.read()
    return Client(f"127.0.0.1:{line.split(':')[1].split()[0]}")
