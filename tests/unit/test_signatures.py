"""gateway/signatures: which of a model's signatures the gateway calls."""

from dataclasses import replace

import pytest
from tensorflow.core.framework import types_pb2

from gateway.contract import Contract
from gateway.errors import ModelMismatchError
from gateway.signatures import choose_signature, usable_signatures
from tests.fake_model import CONTRACT, signature

OF_CONTRACT = Contract(**CONTRACT | {"labels": tuple(CONTRACT["labels"])})


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        (signature(inputs={"a": (-1, 4, 6, 3), "b": (-1, 2)}), "one input"),
        (signature(inputs={"photo": (-1, 4, 6, 1)}), r"one input, float or uint8 .*, 6, 1\)$"),
        (signature(inputs={"photo": (-1, 12)}), r"one input.*, not DT_FLOAT \(-1, 12\)$"),
        (signature(inputs={"photo": (-1, -1, -1, 3)}), "a fixed height and width, not DT_FLOAT"),
        (signature(dtype=types_pb2.DT_INT32), "one input.*, not DT_INT32 "),
        (signature(output_dtype=types_pb2.DT_UINT8), "3 labels want one output"),
        (signature(outputs={"kinds": (-1, 4)}), "3 labels want one output"),
        (signature(outputs={"a": (-1, 3), "b": (-1, 3)}), "3 labels want one output"),
    ],
)
def test_choose_signature_refuses_a_model_that_does_not_fit(definition, words):
    with pytest.raises(ModelMismatchError, match=words):
        choose_signature({"serving_default": definition}, OF_CONTRACT)


def test_choose_signature_ignores_further_outputs():
    definition = signature(outputs={"kinds": (-1, 3), "embedding": (-1, 128)})
    assert choose_signature({"serving_default": definition}, OF_CONTRACT).output_name == "kinds"


def test_choose_signature_names_a_missing_signature():
    with pytest.raises(ModelMismatchError, match=r"no signature 'serving_default', only \['other'"):
        choose_signature({"other": signature()}, OF_CONTRACT)


def names(signatures: dict, contract: Contract = OF_CONTRACT) -> list[str]:
    return [usable.name for usable in usable_signatures(signatures, contract)]


def test_usable_signatures_prefer_uint8_if_nothing_else_differs():
    own, pixels = signature(), signature(dtype=types_pb2.DT_UINT8)
    both = {"serving_default": own, "serving_uint8": pixels}
    assert names(both) == ["serving_uint8", "serving_default"]
    larger = signature(inputs={"photo": (-1, 8, 6, 3)}, dtype=types_pb2.DT_UINT8)
    for other in (own, larger, signature(inputs={"photo": (-1, 4)})):
        assert names({"serving_default": own, "serving_uint8": other}) == ["serving_default"]
    of_pixels = replace(OF_CONTRACT, signature_name="serving_uint8")
    assert names({"serving_uint8": pixels}, of_pixels) == ["serving_uint8"]


def test_choose_signature_takes_one_output_for_two_labels():
    two = replace(OF_CONTRACT, labels=("cat", "dog"))
    one = {"serving_default": signature(outputs={"kind": (-1, 1)})}
    assert choose_signature(one, two).output_name == "kind"
    with pytest.raises(ModelMismatchError, match="3 labels want one output"):
        choose_signature(one, OF_CONTRACT)


def test_choose_signature_compares_the_colours():
    grey = {"serving_default": signature(inputs={"photo": (-1, 4, 6, 1)})}
    assert choose_signature(grey, replace(OF_CONTRACT, colours=1)).input_size == (4, 6)
    with pytest.raises(ModelMismatchError, match=r"\(N, height, width, 4\)"):
        choose_signature(grey, replace(OF_CONTRACT, colours=4))


def test_usable_signatures_take_no_uint8_for_pixels_with_fractions():
    bilinear = replace(OF_CONTRACT, resize="bilinear")
    both = {"serving_default": signature(), "serving_uint8": signature(dtype=types_pb2.DT_UINT8)}
    assert names(both, bilinear) == ["serving_default"]
    of_pixels = replace(bilinear, signature_name="serving_uint8")
    with pytest.raises(ModelMismatchError, match=r"wanted one input, float .*, not DT_UINT8"):
        choose_signature(both, of_pixels)
