"""gateway/contract: a whole one is read, any other ends the gateway's start with one line."""

import json
import os
import subprocess
import sys

import pytest

from gateway.contract import Contract
from gateway.errors import ContractError
from tests.fake_model import CONTRACT, LABELS


def test_a_contract_is_read(contract_file):
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
def test_one_that_cannot_be_used_is_refused_with_the_reason(text, words, contract_file):
    contract_file.write_text(text)
    with pytest.raises(ContractError, match=rf"contract\.json: .*{words}.*notebook 01 writes"):
        Contract.read(contract_file)


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(ContractError, match="nowhere"):
        Contract.read(tmp_path / "nowhere.json")


def test_gunicorn_ends_with_one_line(root, contract_file):
    del (half := dict(CONTRACT))["scores"]
    contract_file.write_text(json.dumps(half))
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "gateway/gunicorn.conf.py"],
        cwd=root,
        env=os.environ | {"GATEWAY_CONTRACT": str(contract_file)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"gateway: cannot use the contract {contract_file}: missing in it, or unknown: scores;"
        " notebook 01 writes a good one\n"
    )
