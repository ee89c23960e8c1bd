"""Classify, Regress and MultiInference: signatures whose one input is serialized tf.Examples.

As in TensorFlow Serving, which of them a signature is good for is judged by the names of its
inputs and outputs, not by its method_name: TensorFlow 2 writes the same one into all of them.
"""

import math

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis.classification_pb2 import (
    ClassificationRequest,
    ClassificationResponse,
    ClassificationResult,
)
from tensorflow_serving.apis.inference_pb2 import MultiInferenceRequest, MultiInferenceResponse
from tensorflow_serving.apis.input_pb2 import Input
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.apis.regression_pb2 import (
    RegressionRequest,
    RegressionResponse,
    RegressionResult,
)

from model_server import errors
from model_server.runtime.servable import DEFAULT_SIGNATURE, Servable


def classify(
    model: Servable, request: ClassificationRequest, timeout: float = math.inf
) -> ClassificationResponse:
    """Answer a ClassificationRequest within `timeout` seconds. Raises tf.errors.OpError.

    As with Servable.predict, who knows the version adds it to the answer's model_spec.
    """
    signature = _signature(model, request.model_spec, "No signature was found with the name: ")
    feed, fetches = _classification_tensors(signature)
    examples = serialized_examples(request.input)
    outputs = _run(model, {feed}, fetches, examples, timeout)
    response = ClassificationResponse()
    _fill_spec(response.model_spec, request.model_spec)
    _write_classes(signature, outputs, len(examples), response.result)
    return response


def regress(
    model: Servable, request: RegressionRequest, timeout: float = math.inf
) -> RegressionResponse:
    """Answer a RegressionRequest; see `classify`."""
    signature = _signature(model, request.model_spec, "No signature was found with the name: ")
    feed, fetches = _regression_tensors(signature)
    examples = serialized_examples(request.input)
    outputs = _run(model, {feed}, fetches, examples, timeout)
    response = RegressionResponse()
    _fill_spec(response.model_spec, request.model_spec)
    _write_values(signature, outputs, len(examples), response.result)
    return response


def multi_inference(
    model: Servable, request: MultiInferenceRequest, timeout: float = math.inf
) -> MultiInferenceResponse:
    """Answer several classifications and regressions of the same examples in one run of the graph.

    See `classify`; every result has a model_spec of its own.
    """
    prepare = {
        tf.saved_model.CLASSIFY_METHOD_NAME: _classification_tensors,
        tf.saved_model.REGRESS_METHOD_NAME: _regression_tensors,
    }
    signatures: dict[str, SignatureDef] = {}  # in the order of the tasks
    feeds, fetches = set(), set()
    for task in request.tasks:
        if not task.model_spec.name:
            raise errors.InvalidArgument("Found ModelSpec with an empty model name.")
        if task.model_spec.name != request.tasks[0].model_spec.name:
            raise errors.InvalidArgument(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = task.model_spec.signature_name or DEFAULT_SIGNATURE
        if name in signatures:
            raise errors.InvalidArgument(f"Duplicate evaluation of signature: {name}")
        signature = _signature(
            model, task.model_spec, "Requested signature not found in model graph: "
        )
        signatures[name] = signature
        if task.method_name not in prepare:
            raise errors.Unimplemented(f"Unsupported signature method_name: {task.method_name}")
        feed, fetched = prepare[task.method_name](signature)
        feeds.add(feed)
        fetches.update(fetched)

    examples = serialized_examples(request.input)
    outputs = _run(model, feeds, sorted(fetches), examples, timeout)
    response = MultiInferenceResponse()
    for task, signature in zip(request.tasks, signatures.values(), strict=True):
        result = response.results.add()
        _fill_spec(result.model_spec, task.model_spec)
        if task.method_name == tf.saved_model.CLASSIFY_METHOD_NAME:
            _write_classes(signature, outputs, len(examples), result.classification_result)
        else:
            _write_values(signature, outputs, len(examples), result.regression_result)
    return response


def serialized_examples(given: Input) -> list[bytes]:
    """Return the examples of an Input, each with the context they share. Raises if there is none.

    A message appended to another of its type is both merged, so a context is simply put in front.
    """
    context, examples = b"", given.example_list.examples
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    if not examples:
        raise errors.InvalidArgument("Input is empty.")
    return [context + example.SerializeToString() for example in examples]


def _signature(model: Servable, spec: ModelSpec, complaint: str) -> SignatureDef:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in model.signatures.signature_def:
        raise errors.InvalidArgument(complaint + name)
    return model.signatures.signature_def[name]


def _classification_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Return the names of the tensor to feed and of those to fetch."""
    if len(signature.inputs) != 1:
        raise errors.InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise errors.InvalidArgument(
            f"Expected one or two output Tensors, found {len(signature.outputs)}"
        )
    if tf.saved_model.CLASSIFY_INPUTS not in signature.inputs:
        raise errors.InvalidArgument(f"No classification inputs found in SignatureDef: {signature}")
    wanted = (tf.saved_model.CLASSIFY_OUTPUT_CLASSES, tf.saved_model.CLASSIFY_OUTPUT_SCORES)
    found = [signature.outputs[alias].name for alias in wanted if alias in signature.outputs]
    if not found:
        raise errors.InvalidArgument(
            "Expected classification signature outputs to contain at least one of "
            f'"{wanted[0]}" or "{wanted[1]}". Signature was: {signature}'
        )
    return signature.inputs[tf.saved_model.CLASSIFY_INPUTS].name, found


def _regression_tensors(signature: SignatureDef) -> tuple[str, list[str]]:
    """Return the names of the tensor to feed and of the one to fetch."""
    if len(signature.inputs) != 1:
        raise errors.InvalidArgument("Expected one input Tensor.")
    if len(signature.outputs) != 1:
        raise errors.InvalidArgument("Expected one output Tensor.")
    if tf.saved_model.REGRESS_INPUTS not in signature.inputs:
        raise errors.InvalidArgument(f"No regression inputs found in SignatureDef: {signature}")
    if tf.saved_model.REGRESS_OUTPUTS not in signature.outputs:
        raise errors.InvalidArgument(f"No regression outputs found in SignatureDef: {signature}")
    return (
        signature.inputs[tf.saved_model.REGRESS_INPUTS].name,
        [signature.outputs[tf.saved_model.REGRESS_OUTPUTS].name],
    )


def _run(
    model: Servable, feeds: set[str], fetches: list[str], examples: list[bytes], timeout: float
) -> dict[str, np.ndarray]:
    """Feed the examples to each tensor; return the fetched arrays by tensor name."""
    array = np.array(examples, dtype=object)
    return dict(zip(fetches, model.run(dict.fromkeys(feeds, array), fetches, timeout), strict=True))


def _write_classes(
    signature: SignatureDef,
    outputs: dict[str, np.ndarray],
    examples: int,
    result: ClassificationResult,
) -> None:
    """Fill a result with the classes (N, C) and scores (N, C) of N examples, or either."""
    found = {}
    for alias, dtype in (
        (tf.saved_model.CLASSIFY_OUTPUT_CLASSES, tf.string),
        (tf.saved_model.CLASSIFY_OUTPUT_SCORES, tf.float32),
    ):
        if alias not in signature.outputs:
            continue
        array = found[alias] = outputs[signature.outputs[alias].name]
        if array.ndim != 2:
            raise errors.InvalidArgument(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if tf.as_dtype(array.dtype) != dtype:
            raise errors.InvalidArgument(
                f"Expected {alias} Tensor of {_name(dtype)}. Got: {_name(array.dtype)}"
            )
        if len(array) != examples:
            raise errors.InvalidArgument(
                f"Expected {alias} output batch size of {examples}. Got: {len(array)}"
            )
    classes = found.get(tf.saved_model.CLASSIFY_OUTPUT_CLASSES)
    scores = found.get(tf.saved_model.CLASSIFY_OUTPUT_SCORES)
    if classes is not None and scores is not None and classes.shape != scores.shape:
        raise errors.InvalidArgument(
            "Tensors class and score should match in dim_size(1). Got "
            f"{classes.shape[1]} vs. {scores.shape[1]}"
        )
    for row in range(examples):
        filled = result.classifications.add().classes
        for column in range((scores if classes is None else classes).shape[1]):
            one = filled.add()
            if classes is not None:
                one.label = classes[row, column].decode(errors="replace")
            if scores is not None:
                one.score = scores[row, column]


def _write_values(
    signature: SignatureDef,
    outputs: dict[str, np.ndarray],
    examples: int,
    result: RegressionResult,
) -> None:
    """Fill a result with the values of N examples, an array (N,) or (N, 1)."""
    array = outputs[signature.outputs[tf.saved_model.REGRESS_OUTPUTS].name]
    if not (array.ndim == 1 or (array.ndim == 2 and array.shape[1] == 1)):
        raise errors.InvalidArgument(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(array)}"
        )
    if len(array) != examples:
        raise errors.InvalidArgument(
            f"Input batch size did not match output batch size: {examples} vs. {len(array)}"
        )
    if array.dtype != np.float32:
        raise errors.InvalidArgument(
            f"Expected output Tensor of DT_FLOAT.  Got: {_name(array.dtype)}"
        )
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _fill_spec(answered: ModelSpec, asked: ModelSpec) -> None:
    answered.name = asked.name
    answered.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"


def _name(dtype: tf.DType | np.dtype) -> str:
    return DataType.Name(tf.as_dtype(dtype).as_datatype_enum)
