"""gateway/model_client against a fake model: names from the model, meaning from the contract."""

import json

import grpc
import numpy as np
import pytest
from tensorflow.core.framework import tensor_pb2, types_pb2

from gateway.model_client import (
    Contract,
    ModelClient,
    ModelMismatchError,
    Signature,
    choose_signature,
    read_tensor,
    write_tensor,
)
from tests.fake_model import LABELS, signature

PICTURES = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)


@pytest.fixture
def contract(contract_file):
    return Contract.read(contract_file)


def test_names_and_size_come_from_the_model(fake_model, contract):
    client = ModelClient(fake_model[1], contract)
    assert client.signature(timeout=5) == Signature("photo", (4, 6), "kinds")


def test_scores_come_back_in_order(fake_model, contract):
    model, address = fake_model
    scores = ModelClient(address, contract).predict(PICTURES, timeout=5)
    np.testing.assert_allclose(scores, PICTURES.mean(axis=(1, 2)), rtol=1e-6)
    [request] = model.requests
    assert request.model_spec.name == "fake"
    assert request.model_spec.signature_name == "serving_default"
    assert list(request.output_filter) == ["kinds"]


def test_nothing_is_opened_before_the_first_call(contract):
    ModelClient("no such host", contract)


def test_an_absent_model_is_unavailable(contract):
    with pytest.raises(grpc.RpcError) as error:
        ModelClient("127.0.0.1:1", contract).predict(PICTURES, timeout=5)
    assert error.value.code() == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (signature(inputs={"a": (-1, 4, 6, 3), "b": (-1, 2)}), "one input"),
        (signature(inputs={"photo": (-1, 4, 6, 1)}), "one input of float pictures"),
        (signature(inputs={"photo": (-1, 12)}), "one input of float pictures"),
        (signature(dtype=types_pb2.DT_UINT8), "one input of float pictures"),
        (signature(outputs={"kinds": (-1, 4)}), "3 labels want one output"),
        (signature(outputs={"a": (-1, 3), "b": (-1, 3)}), "3 labels want one output"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(definition, words, contract):
    with pytest.raises(ModelMismatchError, match=words):
        choose_signature({"serving_default": definition}, contract)


def test_further_outputs_do_not_matter(contract):
    definition = signature(outputs={"kinds": (-1, 3), "embedding": (-1, 128)})
    assert choose_signature({"serving_default": definition}, contract).output_name == "kinds"


def test_a_missing_signature_is_named(contract):
    with pytest.raises(ModelMismatchError, match=r"no signature 'serving_default', only \['other'"):
        choose_signature({"other": signature()}, contract)


@pytest.mark.parametrize("shape", [(2, 3), (1, 4, 6, 3), (0, 3), ()])
def test_tensors_survive_the_round_trip(shape):
    array = np.random.default_rng(1).random(shape, np.float32)
    tensor = tensor_pb2.TensorProto()
    write_tensor(array, tensor)
    np.testing.assert_array_equal(read_tensor(tensor), array)


def test_typed_fields_are_read_too():
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1, 2, 3])
    tensor.tensor_shape.dim.add(size=1)
    tensor.tensor_shape.dim.add(size=3)
    np.testing.assert_array_equal(read_tensor(tensor), [[1, 2, 3]])


def test_the_contract_is_read(contract):
    assert contract.labels == LABELS


@pytest.mark.parametrize("change", [{"labels": None}, {"scores": "percent"}, {"more": 1}])
def test_a_contract_that_cannot_be_used_is_refused(change, contract_file):
    contract_file.write_text(json.dumps(json.loads(contract_file.read_text()) | change))
    with pytest.raises(ModelMismatchError, match="contract"):
        Contract.read(contract_file)


def test_a_missing_contract_is_named(tmp_path):
    with pytest.raises(ModelMismatchError, match="nowhere"):
        Contract.read(tmp_path / "nowhere.json")
