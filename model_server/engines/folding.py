"""Make a loaded graph cheaper to run; its answers stay the same.

A SavedModel keeps its weights in variables, because training changes them. Serving does not. So
they become constants here, and a batch normalization becomes part of the convolution before it:
one factor for each channel goes into the kernel, and the rest is a bias.
"""

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_from_session_graph,
)
from tensorflow.python.framework.meta_graph import create_meta_graph_def
from tensorflow.python.grappler import tf_optimizer

LARGEST = 2**25  # bytes of weights: a larger model gains little, and needs several times its memory

_LOOPS = "Enter", "Switch"  # what loops and branches become
_CONVOLUTIONS = "Conv2D", "DepthwiseConv2dNative"

_log = logging.getLogger(__name__)


def fold(path: Path) -> MetaGraphDef | None:
    """Return the SavedModel in `path` with its weights folded, or None if it must stay as it is.

    That is a large model, or one in which an operation has a state, such as a table, or is a part
    of a loop.
    """
    if sum(file.stat().st_size for file in path.glob("variables/*.data-*")) > LARGEST:
        return None
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(path))
        except Exception:  # the server loads it once more, and says what is wrong
            return None
        try:
            graph = _folded(session, loaded)
        except Exception as error:  # it can still be served
            _log.warning("%s is served unfolded: %s", path, " ".join(str(error).split()))
            return None
    return graph and MetaGraphDef(graph_def=graph, signature_def=loaded.signature_def)


def _folded(session: tf.compat.v1.Session, loaded: MetaGraphDef) -> GraphDef | None:
    signatures = loaded.signature_def.values()
    sides = [side for signature in signatures for side in (signature.inputs, signature.outputs)]
    tensors = [info.name for side in sides for info in side.values()]
    names = sorted({tensor.partition(":")[0] for tensor in tensors if tensor})  # these must stay
    graph = _inline_functions(session.graph, names)
    graph = convert_variables_to_constants_from_session_graph(session, graph, names)
    if any(node.op in _LOOPS or op_def_registry.get(node.op).is_stateful for node in graph.node):
        return None
    for node in graph.node:  # without state, no operation has to wait for another
        inputs = [name for name in node.input if not name.startswith("^")]
        node.ClearField("input")
        node.input.extend(inputs)
    _fold_normalizations(graph, names)
    graph = tf.compat.v1.graph_util.extract_sub_graph(graph, names)
    with tf.Graph().as_default():
        tf.import_graph_def(graph, name="")  # if that fails, it should fail here
    return graph


def _inline_functions(graph: tf.Graph, names: list[str]) -> GraphDef:
    """Return the graph with the operations of its functions; a signature is a function."""
    meta = create_meta_graph_def(graph_def=graph.as_graph_def(), graph=graph)
    meta.collection_def["train_op"].node_list.value.extend(names)
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.min_graph_nodes = -1  # a small graph, too
    config.graph_options.rewrite_options.optimizers.append("function")
    return tf_optimizer.OptimizeGraph(config, meta)


def _fold_normalizations(graph: GraphDef, kept: list[str]) -> None:
    nodes = {node.name: node for node in graph.node}

    def source(name: str) -> NodeDef:
        node = nodes[name.partition(":")[0]]
        return source(node.input[0]) if node.op == "Identity" else node

    inputs = [name for node in graph.node if node.op != "Identity" for name in node.input]
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
        if any(each.op != "Const" for each in (kernel, *statistics)):
            continue
        scale, offset, mean, variance = map(_value, statistics)
        factor = scale / np.sqrt(variance + node.attr["epsilon"].f)
        weights = _value(kernel)
        if convolution.op == "DepthwiseConv2dNative":  # (height, width, channels, multiplier)
            weights *= factor.reshape(weights.shape[2:])
        else:  # (height, width, channels, outputs)
            weights *= factor
        name = "/".join(["folded", kernel.name, *(each.name for each in statistics)])
        folded |= {f"{name}/kernel": weights, f"{name}/bias": offset - mean * factor}
        convolution.input[1] = f"{name}/kernel"
        bias_add = NodeDef(name=node.name, op="BiasAdd", attr={"T": node.attr["T"]})
        bias_add.input.extend([node.input[0], f"{name}/bias"])
        node.CopyFrom(bias_add)
    graph.node.extend(_constant(name, value) for name, value in folded.items())


def _value(constant: NodeDef) -> np.ndarray:
    """Return a copy of the constant."""
    return tf.make_ndarray(constant.attr["value"].tensor).copy()


def _constant(name: str, value: np.ndarray) -> NodeDef:
    tensor = tf.make_tensor_proto(value)
    attributes = {"dtype": AttrValue(type=tensor.dtype), "value": AttrValue(tensor=tensor)}
    return NodeDef(name=name, op="Const", attr=attributes)
