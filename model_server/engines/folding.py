"""Make a loaded graph cheaper to run; its answers stay the same.

While a model is served, its weights do not change. So a batch normalization becomes part of the
convolution before it: one factor for each channel goes into the kernel, and the rest is a bias.
Small weights become constants, which need no reading. Others stay in variables, because TensorFlow
copies a graph with its constants several times.
"""

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.meta_graph import create_meta_graph_def
from tensorflow.python.grappler import tf_optimizer

from model_server import errors

FROZEN = "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS"
LARGEST = 2**28  # bytes of weights: while it is folded, a model needs three times as much memory

SMALL = 2**16  # bytes of a weight that becomes a constant

_LOOPS = "Enter", "Switch"  # what loops and branches become
_READS = "VarHandleOp", "ReadVariableOp", "ResourceGather", "ResourceGatherNd"
_PASSING = "Identity", "ReadVariableOp"  # their result is their input
_CONVOLUTIONS = "Conv2D", "DepthwiseConv2dNative"
_PREPARED = *_CONVOLUTIONS, "Conv3D", "MatMul"  # oneDNN keeps their weights as it likes them

_log = logging.getLogger(__name__)


class Folded(NamedTuple):
    """A SavedModel whose graph is cheaper to run."""

    graph: GraphDef
    weights: dict[str, np.ndarray]  # what each VarHandleOp of the graph holds, by its name
    signatures: Mapping[str, SignatureDef]


def too_large(path: Path) -> bool:
    """Return whether the SavedModel in `path` has too many weights to be copied."""
    return sum(file.stat().st_size for file in path.glob("variables/*.data-*")) > LARGEST


def fold(path: Path) -> Folded | None:
    """Return the SavedModel in `path` with its weights folded, or None if it must stay as it is.

    That is a large model, or one in which an operation has another state than weights, such as a
    table, or is a part of a loop. Raises tf.errors.UnimplementedError if a signature changes
    weights that oneDNN does not read again.
    """
    if too_large(path):
        return None
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(path))
        except Exception:  # the server loads it once more, and says what is wrong
            return None
        try:
            return _folded(session, loaded)
        except tf.errors.UnimplementedError:
            raise
        except Exception as error:  # it can still be served
            _log.warning("%s is served unfolded: %s", path, " ".join(str(error).split()))
            return None


def _folded(session: tf.compat.v1.Session, loaded: MetaGraphDef) -> Folded | None:
    signatures = loaded.signature_def.values()
    sides = [side for signature in signatures for side in (signature.inputs, signature.outputs)]
    tensors = [info.name for side in sides for info in side.values()]
    names = sorted({tensor.partition(":")[0] for tensor in tensors if tensor})  # these must stay
    graph = _inline_functions(session.graph, names)
    graph = tf.compat.v1.graph_util.extract_sub_graph(graph, names)
    _check_weights_stay(graph)
    for operation in {node.op for node in graph.node}.difference(_READS):
        if operation in _LOOPS or op_def_registry.get(operation).is_stateful:
            return None
    for node in graph.node:  # without state, no operation has to wait for another
        inputs = [name for name in node.input if not name.startswith("^")]
        node.ClearField("input")
        node.input.extend(inputs)
    weights = _read_variables(session, graph)
    _fold_normalizations(graph, names, weights)
    _make_constants(graph, weights)
    graph = tf.compat.v1.graph_util.extract_sub_graph(graph, names)
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")  # if that fails, it should fail here
    left = {node.name: weights[node.name] for node in graph.node if node.op == "VarHandleOp"}
    return Folded(graph, left, loaded.signature_def)


def _inline_functions(graph: tf.Graph, names: list[str]) -> GraphDef:
    """Return the graph with the operations of its functions; a signature is a function."""
    meta = create_meta_graph_def(graph_def=graph.as_graph_def(), graph=graph)
    meta.collection_def["train_op"].node_list.value.extend(names)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # a small graph, too
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, meta)


def _check_weights_stay(graph: GraphDef) -> None:
    nodes = {node.name: node for node in graph.node}

    def sources(operations: Collection[str]) -> set[str]:
        found = [node for node in graph.node if node.op in operations]
        return {_source(nodes, name).name for node in found for name in node.input}

    changes = {node.op for node in graph.node if node.op.startswith("Assign")}
    changed = sources(changes) & sources(_PREPARED)
    if changed and os.environ.get(FROZEN) == "1":
        raise errors.Unimplemented(
            f"a signature changes {', '.join(sorted(changed))}: start the server with {FROZEN}=0"
        )


def _source(nodes: Mapping[str, NodeDef], name: str) -> NodeDef:
    """Return the constant, variable or operation from which an input comes."""
    node = nodes[name.lstrip("^").partition(":")[0]]
    return _source(nodes, node.input[0]) if node.op in _PASSING else node


def _read_variables(session: tf.compat.v1.Session, graph: GraphDef) -> dict[str, np.ndarray]:
    """Return the values of the graph's variables, which are the session's."""
    handles = {node.name: node for node in graph.node if node.op == "VarHandleOp"}
    reads = {
        name: tf.raw_ops.ReadVariableOp(
            resource=session.graph.get_tensor_by_name(f"{name}:0"), dtype=node.attr["dtype"].type
        )
        for name, node in handles.items()
    }
    return session.run(reads)


def _fold_normalizations(graph: GraphDef, kept: list[str], weights: dict[str, np.ndarray]) -> None:
    """Make normalizations a part of their convolutions; add the new weights to `weights`."""
    nodes = {node.name: node for node in graph.node}

    source = partial(_source, nodes)

    def value(node: NodeDef) -> np.ndarray:
        constant = node.op == "Const"
        return tf.make_ndarray(node.attr["value"].tensor) if constant else weights[node.name]

    inputs = [name for node in graph.node if node.op not in _PASSING for name in node.input]
    uses = Counter(source(name).name for name in [*inputs, *kept])
    folded: dict[str, np.ndarray] = {}  # by name: signatures share their weights
    for node in graph.node:
        if node.op != "FusedBatchNormV3" or node.attr["is_training"].b:
            continue
        if node.attr["T"].type != tf.float32 or node.attr["data_format"].s != b"NHWC":
            continue
        convolution, *statistics = map(source, node.input)
        if convolution.op not in _CONVOLUTIONS or uses[convolution.name] > 1:
            continue
        kernel = source(convolution.input[1])
        if any(each.op not in ("VarHandleOp", "Const") for each in (kernel, *statistics)):
            continue
        scale, offset, mean, variance = map(value, statistics)
        factor = scale / np.sqrt(variance + node.attr["epsilon"].f)
        kernel_value, bias = value(kernel), offset - mean * factor
        if convolution.op == "DepthwiseConv2dNative":  # (height, width, channels, multiplier)
            factor = factor.reshape(kernel_value.shape[2:])  # else (…, …, channels, outputs)
        name = "/".join(["folded", kernel.name, *(each.name for each in statistics)])
        folded |= {f"{name}/kernel": kernel_value * factor, f"{name}/bias": bias}
        convolution.input[1] = f"{name}/kernel/read"
        bias_add = NodeDef(name=node.name, op="BiasAdd", attr={"T": node.attr["T"]})
        bias_add.input.extend([node.input[0], f"{name}/bias/read"])
        node.CopyFrom(bias_add)
    for name, array in folded.items():
        graph.node.extend(_variable(name, array))
    weights |= folded


def _make_constants(graph: GraphDef, weights: Mapping[str, np.ndarray]) -> None:
    """Put small weights in place of the operations that read them."""
    nodes = {node.name: node for node in graph.node}
    for node in graph.node:
        if node.op == "ReadVariableOp":
            array = weights[_source(nodes, node.name).name]
            if array.nbytes <= SMALL:
                value = AttrValue(tensor=tf.make_tensor_proto(array))
                attributes = {"dtype": node.attr["dtype"], "value": value}
                node.CopyFrom(NodeDef(name=node.name, op="Const", attr=attributes))


def _variable(name: str, value: np.ndarray) -> list[NodeDef]:
    """Return the operations that stand for a variable, and that read it."""
    dtype = AttrValue(type=tf.as_dtype(value.dtype).as_datatype_enum)
    shape = AttrValue(shape=tf.TensorShape(value.shape).as_proto())
    shared_name = AttrValue(s=name.encode())
    attributes = {"dtype": dtype, "shape": shape, "shared_name": shared_name}
    handle = NodeDef(name=name, op="VarHandleOp", attr=attributes)
    read = NodeDef(name=f"{name}/read", op="ReadVariableOp", input=[name], attr={"dtype": dtype})
    return [handle, read]
