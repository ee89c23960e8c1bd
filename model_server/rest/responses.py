"""REST's answers: messages into JSON, laid out as TensorFlow Serving (RapidJSON) lays it out.

Strings that are no UTF-8 come as surrogates (Python's "surrogateescape").
"""

import base64
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis.classification_pb2 import ClassificationResult
from tensorflow_serving.apis.predict_pb2 import PredictResponse
from tensorflow_serving.apis.regression_pb2 import RegressionResult

from model_server import errors
from model_server.runtime import tensors

_INDENT = "    "
_WRITTEN = (
    DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_STRING, DataType.DT_BOOL,
    DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64,
    DataType.DT_UINT8, DataType.DT_UINT32, DataType.DT_UINT64,
)  # fmt: skip


def write_rows(response: PredictResponse) -> str:
    """Return a prediction for each instance: a value, or an object where there are many outputs.

    Raises tf.errors.InvalidArgumentError where outputs are not batched alike.
    """
    rows = 0
    for name, proto in sorted(response.outputs.items()):
        if not proto.tensor_shape.dim:
            raise errors.InvalidArgument(f"Tensor name: {name} has no shape information ")
        size = proto.tensor_shape.dim[0].size
        if size < 1:
            raise errors.InvalidArgument(f"Tensor name: {name} has invalid batch size: {size}")
        if rows not in (0, size):
            raise errors.InvalidArgument(
                f"Tensor name: {name} has inconsistent batch size: {size} expecting: {rows}"
            )
        rows = size
    columns = {name: _written(name, proto) for name, proto in sorted(response.outputs.items())}
    if len(columns) == 1:
        [values] = columns.values()
        return _object("predictions", _array((_line(value, 2) for value in values), ", "))
    newline = "\n" + _INDENT * 2
    objects = (
        newline + _members(2, {name: _line(column[row], 3) for name, column in columns.items()})
        for row in range(rows)
    )
    return _object("predictions", _array(objects, ","))


def write_columns(response: PredictResponse) -> str:
    """Return each output as it is: alone, or as members of an object where there are many."""
    columns = {name: _written(name, proto) for name, proto in sorted(response.outputs.items())}
    if len(columns) == 1:
        [values] = columns.values()
        return _object("outputs", _lines(values, 1))
    members = {name: _lines(values, 2) for name, values in columns.items()}
    return _object("outputs", _members(1, members))


def write_classes(result: ClassificationResult) -> str:
    """Return the [label, score] pairs of each example."""
    rows = (
        _line([[_string(one.label), decimal(one.score, np.float32)] for one in row.classes], 2)
        for row in result.classifications
    )
    return _object("results", _array(rows, ", "))


def write_values(result: RegressionResult) -> str:
    """Return the value of each example."""
    values = [decimal(one.value, np.float32) for one in result.regressions]
    return _object("results", _line(values, 1))


def write_error(message: str) -> str:
    """Return the body that goes with any status but 200."""
    return _object("error", _string(message))


def decimal(value: float, kind: type[np.floating]) -> str:
    """Write a number of this kind; see `_decimals`."""
    return _decimals([value], kind)[0]


def dtype_name(dtype: int) -> str:
    """Return a dtype's name in C++: float, not float32."""
    return DataType.Name(dtype).removeprefix("DT_").lower()


def _written(name: str, proto: TensorProto) -> Any:
    """Return a tensor's values as JSON text, in lists of lists; bytes, by name, as objects."""
    if proto.dtype not in _WRITTEN:
        raise errors.InvalidArgument(
            f"Failed to write JSON value for tensor type: {dtype_name(proto.dtype)}"
        )
    array = tensors.read(proto)
    flat = array.ravel().tolist()
    if array.dtype.kind == "f":
        texts = _decimals(flat, array.dtype.type)
    elif proto.dtype == DataType.DT_STRING and name.endswith("_bytes"):
        texts = [{"b64": _string(base64.b64encode(value).decode())} for value in flat]
    elif proto.dtype == DataType.DT_STRING:
        texts = [_string(value.decode(errors="surrogateescape")) for value in flat]
    else:
        texts = [json.dumps(value) for value in flat]
    nested = np.empty(len(texts), object)
    nested[:] = texts
    return nested.reshape(array.shape).tolist()


def _decimals(values: list[float], kind: type[np.floating]) -> list[str]:
    """Write numbers with six digits or, where these do not mean the same number, with all."""
    texts = [f"{value:.6g}" for value in values]
    same = np.array(texts, np.float64).astype(kind) == np.array(values, kind)
    digits = 9 if kind is np.float32 else 17
    return [
        _completed(text if exact else f"{value:.{digits}g}")
        for text, exact, value in zip(texts, same.tolist(), values, strict=True)
    ]


def _completed(text: str) -> str:
    """Let a whole number be known for a decimal one: 3 is written 3.0."""
    if text in ("nan", "-nan"):
        return "NaN"
    if text.endswith("inf"):
        return text.replace("inf", "Infinity")
    return text if "." in text or "e" in text else f"{text}.0"


def _object(name: str, value: str) -> str:
    return _members(0, {name: value})


def _members(depth: int, members: Mapping[str, str]) -> str:
    """Write an object whose values are written already, a member a line."""
    inner, outer = "\n" + _INDENT * (depth + 1), "\n" + _INDENT * depth
    return (
        "{"
        + ",".join(f"{inner}{_string(name)}: {value}" for name, value in members.items())
        + outer
        + "}"
    )


def _array(items: Iterable[str], separator: str) -> str:
    """Write a member's array as TensorFlow Serving does, its end on a line of its own."""
    return f"[{separator.join(items)}\n{_INDENT}]"


def _line(value: Any, depth: int) -> str:
    """Write nested lists of texts on one line."""
    if not isinstance(value, list):
        return _members(depth, value) if isinstance(value, dict) else value
    if not value or not isinstance(value[0], str):
        value = [_line(inner, depth + 1) for inner in value]
    return f"[{', '.join(value)}]"


def _lines(value: Any, depth: int) -> str:
    """Write nested lists of texts, an element a line."""
    if not isinstance(value, list) or not value:
        return _line(value, depth)
    if not isinstance(value[0], str):
        value = [_lines(inner, depth + 1) for inner in value]
    inner, outer = "\n" + _INDENT * (depth + 1), "\n" + _INDENT * depth
    return f"[{inner}{f',{inner}'.join(value)}{outer}]"


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
