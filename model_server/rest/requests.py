"""REST's requests: JSON bodies into messages, by TensorFlow Serving's rules and in its words.

A body is text that may hold bytes which are no UTF-8, as surrogates (Python's "surrogateescape"):
TensorFlow Serving lets them through to string tensors, and so does this.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example.example_pb2 import Example
from tensorflow.core.example.feature_pb2 import Feature
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import TensorInfo
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.regression_pb2 import RegressionRequest

from model_server import errors
from model_server.rest.responses import decimal, dtype_name

LONGEST_QUOTE = 1024  # characters of a JSON value in an error message

_LARGEST_FLOAT = float(np.finfo(np.float32).max)
_TYPES = {dict: "Object", list: "Array", str: "String", int: "Number", float: "Number"}

# What Python's parser finds wrong, in the words of TensorFlow Serving's (RapidJSON).
_PARSE_ERRORS = {
    "Expecting value": "Invalid value.",
    "Extra data": "The document root must not be followed by other values.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Illegal trailing comma before end of object": "Missing a name for object member.",
    "Illegal trailing comma before end of array": "Invalid value.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Expecting ',' delimiter": "Missing a comma or '}' or ']' after an element.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
    "Invalid control character at": "Invalid encoding in string.",
    "Invalid \\escape": "Invalid escape character in string.",
    "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}


def parse(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body; NaN and (-)Infinity are numbers.

    Raises tf.errors.InvalidArgumentError.
    """
    if not body:
        raise _parse_error("The document is empty.", 0)
    text = body.decode(errors="surrogateescape").removeprefix("\ufeff")
    try:
        document = json.loads(text, parse_float=_finite, parse_int=_integer)
    except json.JSONDecodeError as error:
        if not text.strip():
            raise _parse_error("The document is empty.", len(body)) from error
        offset = len(_bytes(text[: error.pos]))
        raise _parse_error(_PARSE_ERRORS.get(error.msg, error.msg), offset) from error
    except RecursionError as error:
        raise _parse_error("Nested too deeply.", 0) from error
    if not isinstance(document, dict):
        raise _format_error(document, "Is not object")
    return document


def fill_signature(document: Mapping, request) -> None:
    """Take the optional signature_name over into a request's model_spec."""
    if "signature_name" not in document:
        return
    name = document["signature_name"]
    if not isinstance(name, str):
        raise _format_error(
            document, "not formatted correctly. 'signature_name' key must be a string value."
        )
    request.model_spec.signature_name = _text(name)


def fill_inputs(
    document: Mapping, inputs: Mapping[str, TensorInfo], request: PredictRequest
) -> bool:
    """Fill a request's inputs from `instances` (rows) or `inputs` (columns); say if it was rows.

    `inputs` are those of the signature. Raises tf.errors.OpError.
    """
    if not inputs:
        raise errors.InvalidArgument(
            "Failed to get input map for signature: "
            f"{request.model_spec.signature_name or 'DEFAULT'}"
        )
    if "instances" in document and "inputs" in document:
        raise _format_error(
            document,
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ",
        )
    if "instances" in document:
        instances = document["instances"]
        if not isinstance(instances, list):
            raise _format_error(document, "Excepting 'instances' to be an list/array")
        if not instances:
            raise _format_error(document, "No values in 'instances' array")
        _fill_from_rows(instances, inputs, request)
        return True
    if "inputs" in document:
        _fill_from_columns(document["inputs"], inputs, request)
        return False
    raise errors.InvalidArgument("Missing 'inputs' or 'instances' key")


def fill_examples(document: Mapping, request: ClassificationRequest | RegressionRequest) -> None:
    """Fill a request's examples, and the context they share. Raises tf.errors.OpError."""
    given: Input = request.input
    filled = given.example_list
    if "context" in document:
        filled = given.example_list_with_context
        _fill_example(document["context"], filled.context)
    if "examples" not in document:
        raise _format_error(
            document, "When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _format_error(document, "Expecting 'examples' value to be an list/array")
    if not examples:
        raise _format_error(document, "'examples' value is an empty array")
    for example in examples:
        _fill_example(example, filled.examples.add())


class _Column:
    """The values of one input, row after row or all at once."""

    def __init__(self, info: TensorInfo):
        """Take values for an input of this dtype."""
        self.dtype = info.dtype
        self.values: list = []
        self.shape: list[int] = []  # of what was added last
        self._first: tuple[int, list[int]] | None = None

    def add(self, value: Any) -> None:
        """Add a tensor: a value, or lists of lists of them, which must not be ragged."""
        self.shape, inner = [], value
        while isinstance(inner, list):
            self.shape.append(len(inner))
            inner = inner[0] if inner else None
        self._add(value, 0)

    def add_row(self, value: Any) -> None:
        """Add a tensor that must have the shape of the first one."""
        before = len(self.values)
        self.add(value)
        size = len(self.values) - before
        if self._first is None:
            self._first = size, self.shape
        elif size != self._first[0]:
            raise errors.InvalidArgument(f"Expecting tensor size: {self._first[0]} but got: {size}")
        elif self.shape != self._first[1]:
            raise errors.InvalidArgument(
                f"Expecting shape {_list(self._first[1])} but got: {_list(self.shape)}"
            )

    def write(self, proto: TensorProto, rows: int | None = None) -> None:
        """Fill a message with the tensor, or with that many rows of its shape."""
        proto.dtype = self.dtype
        proto.tensor_shape.SetInParent()
        for size in self.shape if rows is None else [rows, *self.shape]:
            proto.tensor_shape.dim.add(size=size)
        if self.dtype == DataType.DT_STRING:
            proto.string_val.extend(self.values)
        elif self.values:
            dtype = tf.as_dtype(self.dtype).as_numpy_dtype
            wide = np.int64 if self.dtype in _NARROW else dtype  # which wraps, as int8 does in C++
            proto.tensor_content = np.array(self.values, wide).astype(dtype).tobytes()

    def _add(self, value: Any, level: int) -> None:
        rank = len(self.shape)
        if not isinstance(value, list):
            if level != rank:
                raise errors.InvalidArgument(
                    f"JSON Value: {_quoted(value)} found at incorrect level: {level + 1} in the "
                    f"JSON DOM. Expected at level: {rank}"
                )
            self.values.append(_CONVERT.get(self.dtype, _convert_none)(value, self.dtype))
            return
        if level >= rank:
            raise errors.InvalidArgument(
                f"Encountered list at unexpected level: {level} expected < {rank}"
            )
        if len(value) != self.shape[level]:
            raise errors.InvalidArgument(
                f"Encountered list at unexpected size: {len(value)} at level: {level} "
                f"expected size: {self.shape[level]}"
            )
        for inner in value:
            self._add(inner, level + 1)


def _fill_from_rows(
    instances: list, inputs: Mapping[str, TensorInfo], request: PredictRequest
) -> None:
    """Batch the instances: objects of named values or, where there is one input, plain values."""
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise errors.InvalidArgument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    columns = {name: _Column(info) for name, info in inputs.items()}
    named = _is_named(instances[0])
    for number, instance in enumerate(instances):
        if _is_named(instance) != named:
            raise errors.InvalidArgument(
                f"Expecting object but got list at item {number} of input list"
                if named
                else f"Expecting value/list but got object at item {number} of input list"
            )
        if not named:
            _add_row(columns, next(iter(columns)), instance, f"element: {number} of")
            continue
        for name, value in instance.items():
            _add_row(columns, name, value, f"element: {number} key: {_text(name)} of")
        if set(instance) != set(columns):
            raise errors.InvalidArgument(
                f"Failed to process element: {number} of 'instances' list. JSON object: "
                f"{_quoted(instance)} must only have keys: {','.join(sorted(columns))}"
            )
    for name, column in columns.items():
        column.write(request.inputs[name], rows=len(instances))


def _add_row(columns: dict[str, _Column], name: str, value: Any, where: str) -> None:
    try:
        if name not in columns:
            raise errors.InvalidArgument(f"JSON object: does not have named input: {_text(name)}")
        columns[name].add_row(value)
    except tf.errors.OpError as error:
        raise errors.InvalidArgument(
            f"Failed to process {where} 'instances' list. Error: "
            f"{_code_name(error)}: {error.message}"
        ) from error


def _fill_from_columns(
    given: Any, inputs: Mapping[str, TensorInfo], request: PredictRequest
) -> None:
    """Take each input as it is: an object of named values or, where there is one, a plain value."""
    if not _is_named(given):
        if len(inputs) > 1:
            raise errors.InvalidArgument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        given = {next(iter(inputs)): given}
    for name, info in inputs.items():
        if name not in given:
            raise errors.InvalidArgument(f"Missing named input: {name} in 'inputs' object.")
        column = _Column(info)
        column.add(given[name])
        column.write(request.inputs[name])


def _fill_example(given: Any, example: Example) -> None:
    if not isinstance(given, dict):
        raise errors.InvalidArgument(
            f"Example must be JSON object but got JSON {_type_name(given)}"
        )
    for name, content in given.items():
        feature = example.features.feature[_text(name)]
        for value in content if isinstance(content, list) else [content]:
            _add_to_feature(value, _text(name), feature)


def _add_to_feature(value: Any, name: str, feature: Feature) -> None:
    """Append a value; the first one decides which kind the others must be."""
    if isinstance(value, bool):
        kind, value = "int64", int(value)
    elif isinstance(value, int):
        kind = "int64"
    elif isinstance(value, float):
        kind = "float"
    elif isinstance(value, str):
        kind, value = "bytes", _bytes(value)
    elif _is_base64(value):
        kind, value = "bytes", _decoded(value)
    else:
        raise errors.InvalidArgument(
            f"Feature: {name} has element with unexpected JSON type: {_type_name(value)}"
        )
    known = feature.WhichOneof("kind")
    if known not in (None, f"{kind}_list"):
        raise errors.InvalidArgument(
            f"Unexpected element type in feature: {name} expecting type: "
            f"{known.removesuffix('_list')}"
        )
    if kind == "float":
        _convert_float(value, DataType.DT_FLOAT)
    elif kind == "int64" and value >= 2**63:
        raise errors.InvalidArgument(
            f"Feature: {name} has uint64 element. Only int64 is supported."
        )
    getattr(feature, f"{kind}_list").value.append(value)


def _convert_float(value: Any, dtype: int) -> float:
    if type(value) is float:
        if abs(value) <= _LARGEST_FLOAT or not math.isfinite(value) or dtype == DataType.DT_DOUBLE:
            return value
    elif type(value) is not int:
        raise _type_error(value, dtype)
    elif abs(value) < 2 ** (24 if dtype == DataType.DT_FLOAT else 53):  # digits of the format
        return value
    raise errors.InvalidArgument(
        f"Cannot convert JSON value: {_quoted(value)} to {dtype_name(dtype)} "
        "without loss of precision."
    )


def _integers(first: int, last: int) -> Callable[[Any, int], int]:
    def convert(value: Any, dtype: int) -> int:
        if type(value) is not int or not first <= value <= last:
            raise _type_error(value, dtype)
        return value

    return convert


def _convert_bool(value: Any, dtype: int) -> bool:
    if not isinstance(value, bool):
        raise _type_error(value, dtype)
    return value


def _convert_string(value: Any, dtype: int) -> bytes:
    if isinstance(value, str):
        return _bytes(value)
    if not isinstance(value, dict):
        raise _type_error(value, dtype)
    if not _is_base64(value):
        raise _format_error(value, "not formatted correctly for base64 data")
    return _decoded(value)


def _convert_none(value: Any, dtype: int) -> Any:
    if isinstance(value, dict):
        raise _type_error(value, dtype)
    raise errors.Unimplemented(
        f"Conversion of JSON Value: {_quoted(value)} to type: {dtype_name(dtype)}"
    )


_NARROW = (DataType.DT_INT16, DataType.DT_INT8, DataType.DT_UINT8)
_CONVERT: dict[int, Callable[[Any, int], Any]] = {
    DataType.DT_FLOAT: _convert_float,
    DataType.DT_DOUBLE: _convert_float,
    DataType.DT_STRING: _convert_string,
    DataType.DT_BOOL: _convert_bool,
    DataType.DT_INT64: _integers(-(2**63), 2**63 - 1),
    DataType.DT_UINT32: _integers(0, 2**32 - 1),
    DataType.DT_UINT64: _integers(0, 2**64 - 1),
    **dict.fromkeys([DataType.DT_INT32, *_NARROW], _integers(-(2**31), 2**31 - 1)),
}


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # as it is written; Infinity itself is a constant, not a number
        raise _parse_error("Number too big to be stored in double.", 0)
    return number


def _integer(text: str) -> int | float:
    if len(text) <= 20 and -(2**63) <= (number := int(text)) < 2**64:
        return number
    return _finite(text)


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get("b64"), str)


def _decoded(value: Mapping[str, str]) -> bytes:
    text = value["b64"].strip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.InvalidArgument("Unable to base64 decode") from error


def _bytes(text: str) -> bytes:
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError as error:  # half of a \ud800\udc00
        raise errors.InvalidArgument(
            "JSON Parse error: The surrogate pair in string is invalid."
        ) from error


def _text(text: str) -> str:
    """Return what a message's text field accepts."""
    return text.encode(errors="replace").decode()


def _parse_error(message: str, offset: int) -> tf.errors.InvalidArgumentError:
    return errors.InvalidArgument(f"JSON Parse error: {message} at offset: {offset}")


def _format_error(value: Any, message: str) -> tf.errors.InvalidArgumentError:
    return errors.InvalidArgument(f"JSON Value: {_quoted(value)} {message}")


def _type_error(value: Any, dtype: int) -> tf.errors.InvalidArgumentError:
    return errors.InvalidArgument(
        f"JSON Value: {_quoted(value)} Type: {_type_name(value)} is not of expected type: "
        f"{dtype_name(dtype)}"
    )


def _type_name(value: Any) -> str:
    return str(value) if isinstance(value, bool) else _TYPES.get(type(value), "Null")


def _code_name(error: tf.errors.OpError) -> str:
    return "UNIMPLEMENTED" if error.error_code == tf.errors.UNIMPLEMENTED else "INVALID_ARGUMENT"


def _quoted(value: Any) -> str:
    text = (
        decimal(value, np.float64)
        if type(value) is float
        else json.dumps(value, indent=4, ensure_ascii=False)
    )
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "...TRUNCATED"


def _list(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"
