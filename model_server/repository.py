"""All models of a server: what a configuration lists, looked up as requests name it."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from model_server import config, errors
from model_server.runtime.servable import Servable
from model_server.versions import LoadOptions, Model, Status, not_found

_log = logging.getLogger(__name__)


class Repository:
    """The models of a server, looked up by ModelSpec as requests name them."""

    def __init__(
        self,
        models: Iterable[Model] = (),
        *,
        options: LoadOptions | None = None,
        labels_for_unavailable: bool = False,
    ):
        """Take the models; nothing is loaded before the first poll.

        Models that `reload` adds are loaded with `options`. With `labels_for_unavailable`, a new
        label may stand for a version that is not loaded yet.
        """
        self._models = {model.name: model for model in models}
        self._labels: dict[str, dict[str, int]] = {}
        self._options = options or LoadOptions()
        self._labels_for_unavailable = labels_for_unavailable
        self._turn = threading.RLock()  # held by who loads and unloads
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
        if new.WhichOneof("config") == "custom_model_config":
            raise errors.InvalidArgument("ModelServer does not yet support custom model config.")
        if not new.HasField("model_config_list"):
            _log.info("Taking no action for empty config.")
            return set()
        listed = list(new.model_config_list.config)
        config.check_models(listed)
        with self._turn:
            self._labels = self._checked_labels(listed)
            added = {model.name for model in listed} - {
                name for name, model in self._models.items() if not model.retired
            }
            for model in self._models.values():
                if model.name not in {one.name for one in listed}:
                    model.retire()
            models = dict(self._models)
            for one in listed:
                base_path = Path(one.base_path)
                if one.name in models:
                    models[one.name].configure(base_path, one.model_version_policy)
                else:
                    models[one.name] = Model(
                        one.name,
                        base_path,
                        policy=one.model_version_policy,
                        options=self._options,
                    )
            self._models = models
            self.poll()
        return added

    def wait_until_available(
        self,
        names: Collection[str] | None = None,
        *,
        timeout: float = math.inf,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Return when each of the models named, or of all, has a version that is served.

        Does not poll. Raises tf.errors.OpError when one cannot be loaded, or time is over, or
        `give_up()` is true.
        """
        deadline = time.monotonic() + timeout
        while missing := self._missing(names):
            if time.monotonic() > deadline or give_up() or self._stopping.is_set():
                raise errors.DeadlineExceeded(
                    f"Model(s) without a version to serve: {', '.join(missing)}"
                )
            self._stopping.wait(0.05)

    def has_failures(self) -> bool:
        """Return whether some version could not be loaded."""
        return any(s.error for model in self._models.values() for s in model.statuses())

    def watch(self, seconds: float) -> None:
        """Poll every so many seconds from a thread of its own, until `close`."""
        self._every(seconds, self.poll, "versions")

    def watch_config(self, path: Path, seconds: float) -> None:
        """Read a --model_config_file again every so many seconds, until `close`."""

        complaint = ""

        def reload() -> None:
            nonlocal complaint
            try:
                self.reload(config.read_models(path))
                complaint = ""
            except tf.errors.OpError as error:
                if error.message != complaint:  # said once, not at every look
                    complaint = error.message
                    _log.error("Failed to reload %s: %s", path, complaint)

        self._every(seconds, reload, "config")

    def close(self) -> None:
        """Stop watching and unload everything, each version when its last request is answered."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        for model in self._models.values():
            model.unload()

    @contextmanager
    def lease(self, spec: ModelSpec) -> Iterator[tuple[int, Servable]]:
        """Lend the servable a request names, with its version; see Model.lease.

        Raises tf.errors.OpError: no name, an unknown label, no such version available.
        """
        if not spec.name:
            raise errors.InvalidArgument("ModelSpec has no name specified.")
        version = self._asked_version(spec)
        if spec.name not in self._models:
            raise not_found(spec.name, version)
        with self._models[spec.name].lease(version) as lent:
            yield lent

    def statuses(self, spec: ModelSpec) -> list[Status]:
        """Return the status of every version of a model, newest first, or of the one asked for.

        Raises tf.errors.OpError where there is none.
        """
        version = self._asked_version(spec)
        found = self._models[spec.name].statuses() if spec.name in self._models else []
        found = [status for status in found if version in (None, status.version)]
        if not found:
            what = "any versions" if version is None else f"version {version}"
            raise errors.NotFound(f"Could not find {what} of model {spec.name}")
        return found

    def _asked_version(self, spec: ModelSpec) -> int | None:
        if spec.HasField("version_label"):
            try:
                return self._labels[spec.name][spec.version_label]
            except KeyError:
                raise errors.InvalidArgument(
                    f"Unrecognized servable version label: {spec.version_label}"
                ) from None
        return spec.version.value if spec.HasField("version") else None

    def _checked_labels(self, listed: list[ModelConfig]) -> dict[str, dict[str, int]]:
        """Return the labels of a configuration. Raises where one stands for nothing available."""
        for model in listed:
            available = self._models[model.name].available() if model.name in self._models else []
            old = self._labels.get(model.name, {})
            for label, version in model.version_labels.items():
                is_new = old.get(label, version) == version  # and no request would miss the old one
                if version not in available and not (self._labels_for_unavailable and is_new):
                    raise errors.FailedPrecondition(
                        f"Request to assign label to version {version} of model {model.name}, "
                        "which is not currently available for inference"
                    )
        return {model.name: dict(model.version_labels) for model in listed}

    def _missing(self, names: Collection[str] | None) -> list[str]:
        missing = [
            model
            for model in self._models.values()
            if (names is None or model.name in names) and not model.retired
            if not model.available()
        ]
        failed = [
            f"{{name: {model.name} version: {status.version}}} due to error: "
            f"{errors.text(status.error)}, "
            for model in missing
            for status in model.statuses()
            if status.error
        ]
        if failed:
            raise errors.Unknown(
                f"{len(failed)} servable(s) did not become available: {{{''.join(failed)}}}"
            )
        return [model.name for model in missing]

    def _every(self, seconds: float, action: Callable[[], None], name: str) -> None:
        def act_until_stopped() -> None:
            while not self._stopping.wait(seconds):
                try:
                    action()
                except Exception:  # a disk may fail for a while: what is served stays served
                    _log.exception("Looking for changes failed")

        thread = threading.Thread(target=act_until_stopped, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()
