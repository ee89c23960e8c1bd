"""The folded graph gives the answers of the SavedModel, or the SavedModel is served as it is."""

import numpy as np
import pytest
import tensorflow as tf

from model_server.engines import folding
from model_server.engines.folding import fold
from model_server.engines.tensorflow import TensorFlowEngine

SIDE, CHANNELS = 8, 3
SPEC = tf.TensorSpec((None, SIDE, SIDE, CHANNELS), tf.float32, "x")
IMAGE = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE, CHANNELS)).astype(np.float32)


def variable(*shape, least=-1.0):
    return tf.Variable(np.random.default_rng(len(shape)).uniform(least, 1, shape), dtype=tf.float32)


class Network(tf.Module):
    """A convolution of an image, and its batch normalization."""

    def __init__(self, convolution=tf.nn.conv2d, outputs=4, kernel=(3, 3, CHANNELS, 4)):
        self.convolution, self.kernel = convolution, variable(*kernel)
        self.scale, self.offset, self.mean = (variable(outputs) for _ in range(3))
        self.variance = variable(outputs, least=0.1)

    def __call__(self, x):
        return self.normalize(self.convolve(x))

    def convolve(self, x):
        strides = [1, 1, 1, 1]
        return self.convolution(x, self.kernel, strides=strides, padding="SAME")

    def normalize(self, x):
        statistics = self.scale, self.offset, self.mean, self.variance
        return tf.compat.v1.nn.fused_batch_norm(x, *statistics, is_training=False)[0]


def save(path, module, **functions):
    """Save a module with functions of an image as signatures."""
    functions = {
        name: tf.function(call, input_signature=[SPEC]) for name, call in functions.items()
    }
    for name, function in functions.items():
        setattr(module, name, function)
    tf.saved_model.save(module, path, signatures=functions)


def run(path, signature="serving_default", times=1):
    """Return the answer, the expected one, and the operations of the graph that was run."""
    loaded = TensorFlowEngine(path, fold(path))
    found = loaded.signatures.signature_def[signature]
    [given], [fetched] = found.inputs.values(), found.outputs.values()
    for _ in range(times):
        [answer] = loaded.run({given.name: IMAGE}, [fetched.name], 9)
    operations = {operation.type for operation in loaded._graph.get_operations()}
    loaded.close()
    call = tf.saved_model.load(str(path)).signatures[signature]
    for _ in range(times):
        [expected] = call(x=tf.constant(IMAGE)).values()
    return answer, expected.numpy(), operations


CONVOLUTIONS = {
    "conv2d": (tf.nn.conv2d, 4, (3, 3, CHANNELS, 4)),
    "depthwise_conv2d": (tf.nn.depthwise_conv2d, 6, (3, 3, CHANNELS, 2)),
}


@pytest.mark.parametrize("convolution", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
@pytest.mark.parametrize("small", [0, 1000])
def test_normalization_becomes_part_of_the_convolution(convolution, small, tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "SMALL", small)
    network = Network(*convolution)
    save(tmp_path, network, serving_default=network)
    answer, expected, operations = run(tmp_path)
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert "FusedBatchNormV3" not in operations
    assert ("VarHandleOp" in operations) == (not small)


def test_convolution_with_another_user_keeps_its_kernel(tmp_path):
    network = Network()

    def both(x):
        convolved = network.convolve(x)
        return network.normalize(convolved) + convolved

    save(tmp_path, network, serving_default=both)
    answer, expected, operations = run(tmp_path)
    np.testing.assert_allclose(answer, expected, atol=1e-5)
    assert "FusedBatchNormV3" in operations


def test_convolution_that_is_an_output_keeps_its_kernel(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x, network = tf.compat.v1.placeholder(SPEC.dtype, SPEC.shape), Network()
        convolved = network.convolve(x)
        outputs = [convolved, network.normalize(convolved)]
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(
            session, str(tmp_path), {"x": x}, {str(n): it for n, it in enumerate(outputs)}
        )
        expected = session.run(outputs, {x: IMAGE})
    loaded = TensorFlowEngine(tmp_path, fold(tmp_path))
    found = loaded.run({x.name: IMAGE}, [output.name for output in outputs], 9)
    loaded.close()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_signatures_share_folded_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "SMALL", 0)
    network = Network()
    functions = {"serving_default": network, "twice": lambda x: 2 * network(x)}
    save(tmp_path, network, **functions)
    for signature in functions:
        answer, expected, _ = run(tmp_path, signature)
        np.testing.assert_allclose(answer, expected, atol=1e-5)
    loaded = TensorFlowEngine(tmp_path, fold(tmp_path))
    weights = [it.name for it in loaded._graph.get_operations() if it.type == "VarHandleOp"]
    loaded.close()
    assert [name.rpartition("/")[2] for name in sorted(weights)] == ["bias", "kernel"]


def test_input_that_is_not_used_can_still_be_sent(tmp_path):
    module, specs = tf.Module(), [tf.TensorSpec((None,), tf.float32, name) for name in ("x", "y")]
    module.factor = tf.Variable(2.0)
    double = tf.function(lambda x, y: module.factor * x, input_signature=specs)
    tf.saved_model.save(module, tmp_path, signatures=double)
    loaded = TensorFlowEngine(tmp_path, fold(tmp_path))
    signature = loaded.signatures.signature_def["serving_default"]
    feeds = {it.name: np.ones(1, np.float32) for it in signature.inputs.values()}
    fetches = [it.name for it in signature.outputs.values()]
    assert (len(feeds), loaded.run(feeds, fetches, 9)) == (2, [2])
    loaded.close()


def looped(x):
    return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, 2 * x + 1), (0, x))[1]


def chosen(x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x + 1, lambda: x - 1)


def of_each(x):
    return tf.map_fn(lambda row: row * tf.reduce_max(row), x)


@pytest.mark.parametrize("call", [looped, chosen, of_each])
def test_control_flow(call, tmp_path):
    network = Network()
    save(tmp_path, network, serving_default=lambda x: call(network(x)))
    answer, expected, _ = run(tmp_path)
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_model_that_counts_keeps_its_variable(tmp_path):
    module = tf.Module()
    module.count = tf.Variable(0.0)
    save(tmp_path, module, serving_default=lambda x: module.count.assign_add(1.0) + 0 * x)
    answer, expected, _ = run(tmp_path, times=3)
    assert answer.max() == expected.max() == 3


@pytest.mark.parametrize("frozen", ["0", "1"])
def test_signature_that_changes_a_kernel_is_refused_or_seen(tmp_path, monkeypatch, frozen):
    monkeypatch.setenv(folding.FROZEN, frozen)
    network = Network()

    def train(x):
        network.kernel.assign_add(tf.ones_like(network.kernel))
        return network.convolve(x)

    save(tmp_path, network, serving_default=network.convolve, train=train)
    if frozen == "1":
        with pytest.raises(tf.errors.UnimplementedError, match=f"Variable.*{folding.FROZEN}=0"):
            fold(tmp_path)
    else:
        answer, expected, _ = run(tmp_path, "train", times=3)
        np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_large_model_is_not_folded(tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "LARGEST", 100)
    network = Network()
    save(tmp_path, network, serving_default=network)
    assert "StatefulPartitionedCall" in run(tmp_path)[2]
