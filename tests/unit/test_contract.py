"""gateway/contract: a whole one is read, any other is refused with the reason."""

import json

import pytest

from gateway.contract import Contract
from gateway.errors import ContractError
from tests.fake_model import CONTRACT, LABELS


def test_read_returns_the_contract(contract_file):
    assert Contract.read(contract_file).labels == LABELS


WRONG = {
    "not JSON": ("{", "Expecting property name"),
    "no object": ("[]", "missing in it, or unknown: labels, model_name"),
    "empty": ("{}", "missing in it, or unknown: labels, model_name, preprocessing, scores, sig"),
    "more": (json.dumps(CONTRACT | {"more": 1}), "missing in it, or unknown: more"),
    "no labels": (json.dumps(CONTRACT | {"labels": "a,b"}), "labels are a list"),
    "percent": (json.dumps(CONTRACT | {"scores": "percent"}), "scores logits or probabilities"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_read_refuses_a_bad_contract_with_the_reason(text, words, contract_file):
    contract_file.write_text(text)
    with pytest.raises(ContractError, match=rf"contract\.json: .*{words}.*notebook 01 writes"):
        Contract.read(contract_file)


def test_read_names_a_missing_file(tmp_path):
    with pytest.raises(ContractError, match="nowhere"):
        Contract.read(tmp_path / "nowhere.json")
