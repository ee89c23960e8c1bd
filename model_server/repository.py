"""All models of a server: what a configuration lists, looked up as requests name them."""

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from model_server import errors
from model_server.config import check_models
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
        self._listed: dict[str, ModelConfig] = {}  # the present configuration
        self._models: dict[str, Model] = {}  # those that it lists, and those that it once did
        self._folders: set[Path] = set()  # in which a caller's models may be
        self._turn = threading.RLock()  # held by the thread that loads and unloads
        self._closed = threading.Event()

    def poll(self) -> None:
        """Bring every model in line with its folder; see Model.poll."""
        with self._turn:
            for name, model in self._models.items():
                if name in self._listed:
                    model.poll(self._listed[name])
                else:
                    model.unload_all_but([])

    def reload(self, new: ModelServerConfig, *, from_caller: bool = False) -> set[str]:
        """Serve other models, other versions, under other labels; what is not listed is unloaded.

        A caller may only name folders beside those of the server's own configuration, if it lists
        any. Returns the names of the models that are new, see `wait_until_available`. Raises
        tf.errors.OpError where the configuration is refused: everything then stays as it was.
        """
        if not new.HasField("model_config_list"):
            raise errors.InvalidArgument("the configuration has no model_config_list")
        check_models(new.model_config_list.config)
        with self._turn:
            listed = {model.name: model for model in new.model_config_list.config}
            self._check_labels(listed)
            folders = {name: _folder_of(model.base_path) for name, model in listed.items()}
            if from_caller and self._folders:
                self._check_folders(folders)
            else:
                self._folders |= set(folders.values())
            added = listed.keys() - self._listed.keys()
            self._models |= {name: Model(name, self._load) for name in listed.keys() - self._models}
            self._listed = listed
            self.poll()
        return added

    def wait_until_available(
        self, names: Collection[str], give_up: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when each of these models has a version that is served.

        Does not poll. Raises tf.errors.OpError when one cannot be loaded, or `give_up()` is true.
        """
        while missing := self._missing(names):
            if give_up():
                names = ", ".join(missing)
                raise errors.DeadlineExceeded(f"no version can be served yet of: {names}")
            time.sleep(0.05)

    def repeat(self, action: Callable[[], object], seconds: float) -> None:
        """Call `poll`, or what else changes the models, every `seconds` from a new thread."""

        def act_until_closed() -> None:
            while not self._closed.wait(seconds):
                try:
                    action()
                except Exception as error:  # what is served stays served
                    _log.error("Nothing is changed: %s", error)

        threading.Thread(target=act_until_closed, daemon=True).start()

    def close(self) -> None:
        """Unload everything, each version when its last request is answered."""
        self._closed.set()
        self.reload(ModelServerConfig(model_config_list={}))

    @contextmanager
    def lease(self, spec: ModelSpec) -> Iterator[tuple[int, Servable]]:
        """Lend the servable a request names, with its version; see Model.lease.

        Raises tf.errors.OpError: no name, an unknown label, no such version available.
        """
        with ExitStack() as stack:
            while True:
                version = self._asked_version(spec)
                if spec.name not in self._models:
                    raise not_served(spec.name, version)
                try:
                    lent = stack.enter_context(self._models[spec.name].lease(version))
                    break
                except tf.errors.NotFoundError:
                    if self._asked_version(spec) == version:  # its label has not moved meanwhile
                        raise
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
        labels = self._labels(spec.name)
        if spec.version_label not in labels:
            known = ", ".join(sorted(labels)) or "none"
            raise errors.InvalidArgument(
                f'model "{spec.name}" has no label "{spec.version_label}"; its labels: {known}'
            )
        return labels[spec.version_label]

    def _labels(self, name: str) -> dict[str, int]:
        return dict(self._listed.get(name, ModelConfig()).version_labels)

    def _check_labels(self, listed: dict[str, ModelConfig]) -> None:
        """Raise tf.errors.FailedPreconditionError where a label's version is unavailable."""
        for name, model in listed.items():
            available = self._models[name].available() if name in self._models else []
            old = self._labels(name)
            for label, version in model.version_labels.items():
                is_new = old.get(label, version) == version  # so no request loses its old version
                if version not in available and not (self._labels_for_unavailable and is_new):
                    raise errors.FailedPrecondition(
                        f'label "{label}" of model "{name}" stands for version {version}, '
                        "which is not available; load it first"
                    )

    def _check_folders(self, folders: dict[str, Path]) -> None:
        """Raise tf.errors.InvalidArgumentError for a model in a folder that is not allowed."""
        for name, folder in folders.items():
            if not any(folder.is_relative_to(allowed) for allowed in self._folders):
                known = ", ".join(map(str, sorted(self._folders)))
                raise errors.InvalidArgument(f'model "{name}" is in {folder}; allowed: {known}')

    def _missing(self, names: Collection[str]) -> list[str]:
        """Return which models have no version. Raises tf.errors.UnknownError if loading failed."""
        missing = [n for n in names if n in self._listed and not self._models[n].available()]
        failed = [
            f"version {number} of {name}: {' '.join(version.error.message.split())}"
            for name in missing
            for number, version in self._models[name].versions()
            if version.error
        ]
        if failed:
            raise errors.Unknown(f"could not be loaded: {'; '.join(failed)}")
        return missing


def _folder_of(base_path: str) -> Path:
    """Return the folder that a model's folder is in; a model in / is its own."""
    path = Path(os.path.normpath(base_path))
    return path if path.parent == Path("/") else path.parent
