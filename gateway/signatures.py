"""Choose how to call a model from the signatures that it describes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from gateway.contract import Contract
from gateway.errors import ModelMismatchError
from gateway.tensors import DTYPES

UINT8_SIGNATURE = "serving_uint8"  # takes pixels as they are; notebook 01 adds it to a model


@dataclass(frozen=True)
class Signature:
    """Describe how to call a model, as the model's own metadata says."""

    name: str
    input_name: str
    input_size: tuple[int, int]  # height and width of a picture, in pixels
    input_dtype: np.dtype  # float32: pixels scaled as in training; uint8: as they are, 0 to 255
    output_name: str


def choose_signature(signatures: Mapping[str, SignatureDef], contract: Contract) -> Signature:
    """Return the contract's signature. Raises ModelMismatchError if the two do not fit."""
    if contract.signature_name not in signatures:
        raise ModelMismatchError(
            f"the model has no signature {contract.signature_name!r}, only {sorted(signatures)}"
        )
    definition = signatures[contract.signature_name]
    exact = contract.resize == "nearest"  # other ways give fractions, which uint8 cannot hold
    inputs = _shapes(definition.inputs, *(DTYPES if exact else [types_pb2.DT_FLOAT]))
    pictures = [
        name
        for name, shape in inputs.items()
        if shape[3:] == (contract.colours,) and min(shape[1:3]) > 0  # -1: any size
    ]
    if len(definition.inputs) != 1 or not pictures:
        wanted = "float or uint8" if exact else "float"
        raise ModelMismatchError(
            f"wanted one input, {wanted} (N, height, width, {contract.colours}) with a fixed"
            f" height and width, not {', '.join(map(_described, definition.inputs.values()))}"
        )
    labels, outputs = len(contract.labels), _shapes(definition.outputs, types_pb2.DT_FLOAT)
    fitting = [name for name, shape in outputs.items() if shape[1:] == (labels,)]
    if labels == 2 and not fitting:  # one output may do for both, see Contract.score_each
        fitting = [name for name, shape in outputs.items() if shape[1:] == (1,)]
    if len(fitting) != 1:
        raise ModelMismatchError(f"{labels} labels want one output as wide, not {outputs}")
    [picture] = pictures
    dtype = DTYPES[definition.inputs[picture].dtype]
    return Signature(contract.signature_name, picture, inputs[picture][1:3], dtype, fitting[0])


def _shapes(infos: Mapping[str, TensorInfo], *dtypes: int) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(dim.size for dim in info.tensor_shape.dim)
        for name, info in infos.items()
        if info.dtype in dtypes
    }


def _described(info: TensorInfo) -> str:
    shape = tuple(dim.size for dim in info.tensor_shape.dim)
    return f"{types_pb2.DataType.Name(info.dtype)} {shape}"


def usable_signatures(
    signatures: Mapping[str, SignatureDef], contract: Contract
) -> tuple[Signature, ...]:
    """Return the signatures that give the contract's scores, the cheapest first.

    That is the contract's, and before it UINT8_SIGNATURE, if the model has one that differs in its
    input's dtype only. Raises ModelMismatchError as `choose_signature` does.
    """
    chosen = choose_signature(signatures, contract)
    twin = replace(chosen, name=UINT8_SIGNATURE, input_dtype=np.dtype(np.uint8))
    try:
        found = choose_signature(signatures, replace(contract, signature_name=UINT8_SIGNATURE))
    except ModelMismatchError:  # the model has no such signature
        return (chosen,)
    return (twin, chosen) if found == twin != chosen else (chosen,)
