"""gateway/contract: a whole one is read, any other is refused with the reason."""

import json

import numpy as np
import pytest

from gateway.contract import Contract
from gateway.errors import ContractError
from tests.fake_model import CONTRACT, LABELS


def test_read_takes_a_contract_of_an_older_version(contract_file):
    assert CONTRACT.keys().isdisjoint(("resize", "shrink_jpegs"))
    contract = Contract.read(contract_file)
    assert contract.labels == LABELS
    assert (contract.resize, contract.shrink_jpegs) == ("nearest", False)
    new = CONTRACT | {"resize": "bilinear", "shrink_jpegs": False, "scores": "independent"}
    contract_file.write_text(json.dumps(new))
    assert Contract.read(contract_file).resize == "bilinear"


WRONG = {
    "not JSON": ("{", "Expecting property name"),
    "no object": ("[]", "missing in it, or unknown: labels, model_name"),
    "empty": ("{}", "missing in it, or unknown: labels, model_name, preprocessing, scores, sig"),
    "more": (json.dumps(CONTRACT | {"more": 1}), "missing in it, or unknown: more"),
    "no labels": (json.dumps(CONTRACT | {"labels": "a,b"}), "labels are a list"),
    "number": (json.dumps(CONTRACT | {"labels": ["a", 1]}), "list of different texts"),
    "twice": (json.dumps(CONTRACT | {"labels": ["a", "b", "a"]}), "list of different texts"),
    "percent": (json.dumps(CONTRACT | {"scores": "percent"}), "scores are one of logits, prob"),
    "resize": (json.dumps(CONTRACT | {"resize": "lanczos"}), "resize is one of nearest, bilinear"),
    "shrink": (json.dumps(CONTRACT | {"shrink_jpegs": 1}), "shrink_jpegs a boolean"),
    "colours": (json.dumps(CONTRACT | {"colours": 2}), "colours are 1, 3 or 4"),
    "boolean": (json.dumps(CONTRACT | {"colours": True}), "colours are 1, 3 or 4"),
    "scaling": (json.dumps(CONTRACT | {"preprocessing": "x"}), "'x' is no preprocessing"),
    "no scaling": (json.dumps(CONTRACT | {"preprocessing": None}), "no attribute 'lower'"),
    "four": (
        json.dumps(CONTRACT | {"colours": 4, "preprocessing": "torch"}),
        "preprocessing 'torch' is for 3 colours",
    ),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_read_refuses_a_bad_contract_with_the_reason(text, words, contract_file):
    contract_file.write_text(text)
    with pytest.raises(ContractError, match=rf"contract\.json: .*{words}.*notebook 01 writes"):
        Contract.read(contract_file)


def test_read_names_a_missing_file(tmp_path):
    with pytest.raises(ContractError, match="nowhere"):
        Contract.read(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [("independent", [0.25, 0.75]), ("probabilities", [0.25, 0.75]), ("logits", [0, 0.75])],
)
def test_score_each_gives_both_labels_of_one_output_a_score(scores, expected):
    contract = Contract("m", "s", "none", ("cat", "dog"), scores)
    one = np.array([[0.75]], np.float32)
    np.testing.assert_array_equal(contract.score_each(one), [expected])
    both = np.array([[1, 2]], np.float32)
    assert contract.score_each(both) is both
