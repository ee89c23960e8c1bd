"""All models of a server: what a configuration lists, looked up as requests name them."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from model_server import config, errors
from model_server.servable import Servable
from model_server.versions import Model, not_served

_log = logging.getLogger(__name__)


class Repository:
    """The models of a server. Nothing is served before the first `reload`."""

    def __init__(self, load: Callable[[Path], Servable], *, labels_for_unavailable: bool = False):
        """Load version folders with `load`.

        With `labels_for_unavailable`, a new label may stand for a version that is not loaded yet.
        """
        self._load = load
        self._labels_for_unavailable = labels_for_unavailable
        self._models: dict[str, Model] = {}
        self._labels: dict[str, dict[str, int]] = {}
        self._turn = threading.RLock()  # held by the thread that loads and unloads
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def poll(self) -> None:
        """Bring every model in line with its folder; see Model.poll."""
        with self._turn:
            for model in self._models.values():
                model.poll()

    def reload(self, new: ModelServerConfig) -> set[str]:
        """Serve other models, other versions, under other labels; what is not listed is unloaded.

        Returns the names of the models that are new, see `wait_until_available`. Raises
        tf.errors.OpError where the configuration is refused: everything then stays as it was.
        """
        if not new.HasField("model_config_list"):
            raise errors.InvalidArgument("the configuration has no model_config_list")
        listed = list(new.model_config_list.config)
        config.check_models(listed)
        with self._turn:
            self._labels = self._checked_labels(listed)
            served = {name for name, model in self._models.items() if not model.retired}
            wanted = {one.name: one for one in listed}
            self._models = self._models | {
                name: Model(name, self._load) for name in wanted if name not in self._models
            }
            for name, model in self._models.items():
                if one := wanted.get(name):
                    model.configure(Path(one.base_path), one.model_version_policy)
                else:
                    model.retire()
            self.poll()
        return wanted.keys() - served

    def wait_until_available(
        self,
        names: Collection[str],
        *,
        timeout: float = math.inf,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when each of these models has a version that is served.

        Does not poll. Raises tf.errors.OpError when one cannot be loaded, or time is over, or
        `give_up()` is true.
        """
        deadline = time.monotonic() + timeout
        while missing := self._missing(names):
            if time.monotonic() > deadline or give_up() or self._stopping.is_set():
                names = ", ".join(missing)
                raise errors.DeadlineExceeded(f"no version can be served yet of: {names}")
            self._stopping.wait(0.05)

    def watch(self, seconds: float) -> None:
        """Poll every `seconds` from a new thread, until `close`."""
        self._every(seconds, self.poll)

    def watch_config(self, path: Path, seconds: float) -> None:
        """Read a --model_config_file again every `seconds`, until `close`."""
        self._every(seconds, lambda: self.reload(config.read_models(path)))

    def close(self) -> None:
        """Stop watching and unload everything, each version when its last request is answered."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self.reload(ModelServerConfig(model_config_list={}))

    @contextmanager
    def lease(self, spec: ModelSpec) -> Iterator[tuple[int, Servable]]:
        """Lend the servable a request names, with its version; see Model.lease.

        Raises tf.errors.OpError: no name, an unknown label, no such version available.
        """
        version = self._asked_version(spec)
        if spec.name not in self._models:
            raise not_served(spec.name, version)
        with self._models[spec.name].lease(version) as lent:
            yield lent

    def status(self, spec: ModelSpec) -> GetModelStatusResponse:
        """Return the status of every version of a model, newest first, or of the one asked for.

        Raises tf.errors.OpError where there is none.
        """
        wanted = self._asked_version(spec)
        response = GetModelStatusResponse()
        found = self._models[spec.name].versions() if spec.name in self._models else []
        for number, version in found:
            if wanted in (None, number):
                entry = response.model_version_status.add(version=number, state=version.state)
                entry.status.SetInParent()  # OK is sent, not left out
                if version.error:
                    entry.status.error_code = version.error.error_code
                    entry.status.error_message = version.error.message
        if not response.model_version_status:
            raise not_served(spec.name, wanted)
        return response

    def _asked_version(self, spec: ModelSpec) -> int | None:
        if not spec.name:
            raise errors.InvalidArgument("the request names no model: set model_spec.name")
        if not spec.HasField("version_label"):
            return spec.version.value if spec.HasField("version") else None
        labels = self._labels.get(spec.name, {})
        if spec.version_label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise errors.InvalidArgument(
                f'model "{spec.name}" has no label "{spec.version_label}"; its labels: {known}'
            )
        return labels[spec.version_label]

    def _checked_labels(self, listed: list[ModelConfig]) -> dict[str, dict[str, int]]:
        """Return the labels of a configuration. Raises where a version is unavailable."""
        for model in listed:
            available = self._models[model.name].available() if model.name in self._models else []
            old = self._labels.get(model.name, {})
            for label, version in model.version_labels.items():
                is_new = old.get(label, version) == version  # so no request loses its old version
                if version not in available and not (self._labels_for_unavailable and is_new):
                    raise errors.FailedPrecondition(
                        f'label "{label}" of model "{model.name}" stands for version {version}, '
                        "which is not available; load it first"
                    )
        return {model.name: dict(model.version_labels) for model in listed}

    def _missing(self, names: Collection[str]) -> list[str]:
        """Return which models have no version. Raises tf.errors.UnknownError if loading failed."""
        models = {name: self._models[name] for name in names}
        missing = {n: m for n, m in models.items() if not m.retired and not m.available()}
        failed = [
            f"version {number} of {name}: {' '.join(version.error.message.split())}"
            for name, model in missing.items()
            for number, version in model.versions()
            if version.error
        ]
        if failed:
            raise errors.Unknown(f"could not be loaded: {'; '.join(failed)}")
        return list(missing)

    def _every(self, seconds: float, action: Callable[[], object]) -> None:
        def act_until_stopped() -> None:
            complaint = ""
            while not self._stopping.wait(seconds):
                try:
                    action()
                    complaint = ""
                except Exception as error:  # what is served stays served
                    if str(error) != complaint:  # once, not each time
                        _log.error("Nothing is changed: %s", error)
                    complaint = str(error)

        self._threads.append(threading.Thread(target=act_until_stopped, daemon=True))
        self._threads[-1].start()
