"""What runs a SavedModel: `tensorflow`, or `openvino`, which is faster on CPUs."""

from typing import Protocol

import numpy as np
from tensorflow_serving.apis.get_model_metadata_pb2 import SignatureDefMap

Feeds = dict[str, np.ndarray]  # by tensor name


class Engine(Protocol):
    """A loaded SavedModel. Many threads may call `run` at once until it is closed."""

    signatures: SignatureDefMap
    runs_at_once: int  # as many as keep all processors busy
    joins: bool  # whether one run of several requests can be cheaper than a run of each

    def run(self, feeds: Feeds, fetches: list[str], timeout: float) -> list[np.ndarray]:
        """Return tensors by name, within `timeout` seconds. Raises tf.errors.OpError."""

    def close(self) -> None:
        """Free the model's memory. No call may be running."""
