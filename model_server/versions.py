"""Which versions are served: watch a model's base path, load what is new, swap, unload the rest."""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.model_pb2 import ModelSpec

from model_server import errors, warmup
from model_server.runtime import SavedModel

_log = logging.getLogger(__name__)


class Status(NamedTuple):
    """What is known of a version: a state of ModelVersionStatus and the error that ended it."""

    version: int
    state: int
    error: tf.errors.OpError | None


@dataclass
class _Version:
    state: int = ModelVersionStatus.LOADING
    error: tf.errors.OpError | None = None
    servable: SavedModel | None = None
    users: int = 0  # requests that are using the servable at this moment
    files: frozenset = frozenset()  # as they were when it was loaded


class Model:
    """One model: the highest version folder under its base path is served.

    `poll` belongs to one thread, everything else to any.
    """

    def __init__(self, name: str, base_path: Path):
        """Name a model and its folder of versions, which may come to exist later."""
        self.name = name
        self._base_path = base_path
        self._versions: dict[int, _Version] = {}
        self._changed = threading.Condition()
        self._complaint = ""

    def poll(self) -> None:
        """Look at the base path once, and bring what is served in line with it.

        A new version is loaded and warmed up before the one it replaces is unloaded; if it cannot
        be loaded, the old one stays, and the new one is tried again when its files change.
        """
        try:
            folders = _version_folders(self._base_path)
        except OSError as error:
            self._complain(
                f"Could not find base path {self._base_path} for servable {self.name} ({error})"
            )
            return
        if folders:
            self._complaint = ""
            newest = max(folders)
            if not self._load(newest, folders[newest]):
                return
        else:
            newest = None
            self._complain(
                f"No versions of servable {self.name} found under base path {self._base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?"
            )
        self._unload_all_but(newest)

    def statuses(self) -> list[Status]:
        """Return the status of every version there has been, newest first."""
        with self._changed:
            return [
                Status(number, version.state, version.error)
                for number, version in sorted(self._versions.items(), reverse=True)
            ]

    @contextmanager
    def lease(self, version: int | None = None) -> Iterator[tuple[int, SavedModel]]:
        """Lend a version, or the newest available one, with its number: it stays loaded meanwhile.

        Raises tf.errors.NotFoundError where there is none.
        """
        with self._changed:
            available = [
                number
                for number, known in self._versions.items()
                if known.state == ModelVersionStatus.AVAILABLE and version in (None, number)
            ]
            if not available:
                raise _not_found(self.name, version)
            lent = self._versions[max(available)]
            lent.users += 1
        try:
            yield max(available), lent.servable
        finally:
            with self._changed:
                lent.users -= 1
                self._changed.notify_all()

    def unload(self) -> None:
        """Unload every version, each when its last request is answered."""
        self._unload_all_but(None)

    def _load(self, number: int, path: Path) -> bool:
        """Load a version unless it is served or failed with the same files; say if it is served."""
        known = self._versions.get(number)
        if known and known.state == ModelVersionStatus.AVAILABLE:
            return True
        files = _fingerprint(path)
        if known and known.error and known.files == files:
            return False

        version = _Version(files=files)
        with self._changed:
            self._versions[number] = version
        started = time.monotonic()
        servable = None
        try:
            servable = SavedModel(path)
            requests = warmup.replay(servable, path)
        except Exception as error:  # whatever is wrong with this version, the others are served
            if servable:
                servable.close()
            if not isinstance(error, tf.errors.OpError):
                error = errors.Unknown(f"{type(error).__name__}: {error}")
            reason = " ".join(error.message.split())
            _log.error("Version %d of %s could not be loaded: %s", number, self.name, reason)
            with self._changed:
                version.state, version.error = ModelVersionStatus.END, error
            return False
        with self._changed:
            version.state, version.servable = ModelVersionStatus.AVAILABLE, servable
        _log.info(
            "Loaded version %d of %s in %.1f s, warmed up with %d request%s",
            number,
            self.name,
            time.monotonic() - started,
            requests,
            "" if requests == 1 else "s",
        )
        return True

    def _unload_all_but(self, kept: int | None) -> None:
        for number, version in self._versions.items():
            if number == kept or version.state != ModelVersionStatus.AVAILABLE:
                continue
            with self._changed:
                version.state = ModelVersionStatus.UNLOADING
                self._changed.wait_for(lambda version=version: not version.users)
                servable, version.servable = version.servable, None
            servable.close()
            with self._changed:
                version.state = ModelVersionStatus.END
            _log.info("Unloaded version %d of %s", number, self.name)

    def _complain(self, message: str) -> None:
        if message != self._complaint:  # said once, not at every poll
            self._complaint = message
            _log.warning(message)


class Repository:
    """The models of a server, looked up by ModelSpec as requests name them."""

    def __init__(self, models: Iterable[Model]):
        """Take the models; nothing is loaded before the first poll."""
        self._models = {model.name: model for model in models}
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def poll(self) -> None:
        """Bring every model in line with its folder; see Model.poll."""
        for model in self._models.values():
            model.poll()

    def has_failures(self) -> bool:
        """Return whether some version could not be loaded."""
        return any(s.error for model in self._models.values() for s in model.statuses())

    def watch(self, seconds: float) -> None:
        """Poll every so many seconds from a thread of its own, until `close`."""

        def poll_until_stopped() -> None:
            while not self._stopping.wait(seconds):
                self.poll()

        self._watcher = threading.Thread(target=poll_until_stopped, name="versions", daemon=True)
        self._watcher.start()

    def close(self) -> None:
        """Stop watching and unload everything, each version when its last request is answered."""
        self._stopping.set()
        if self._watcher:
            self._watcher.join()
        for model in self._models.values():
            model.unload()

    @contextmanager
    def lease(self, spec: ModelSpec) -> Iterator[tuple[int, SavedModel]]:
        """Lend the servable a request names, with its version; see Model.lease.

        Raises tf.errors.OpError: no name, an unknown label, no such version available.
        """
        version = _asked_version(spec)
        if not spec.name:
            raise errors.InvalidArgument("ModelSpec has no name specified.")
        if spec.name not in self._models:
            raise _not_found(spec.name, version)
        with self._models[spec.name].lease(version) as lent:
            yield lent

    def statuses(self, spec: ModelSpec) -> list[Status]:
        """Return the status of every version of a model, newest first, or of the one asked for.

        Raises tf.errors.OpError where there is none.
        """
        version = _asked_version(spec)
        found = self._models[spec.name].statuses() if spec.name in self._models else []
        found = [status for status in found if version in (None, status.version)]
        if not found:
            what = "any versions" if version is None else f"version {version}"
            raise errors.NotFound(f"Could not find {what} of model {spec.name}")
        return found


def _version_folders(base_path: Path) -> dict[int, Path]:
    """Return the folders that are named as a version, by number. Raises OSError."""
    return {
        int(entry.name): Path(entry.path)
        for entry in os.scandir(base_path)
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
        if int(entry.name) < 2**63  # versions are int64
    }


def _fingerprint(path: Path) -> frozenset:
    """Return what changes whenever a file below `path` does: names, sizes, times."""
    found = set()
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                stat = os.stat(os.path.join(folder, name))
            except OSError:  # gone between the two calls, or a broken link
                continue
            found.add((folder, name, stat.st_size, stat.st_mtime_ns))
    return frozenset(found)


def _asked_version(spec: ModelSpec) -> int | None:
    if spec.HasField("version_label"):
        raise errors.InvalidArgument(f"Unrecognized servable version label: {spec.version_label}")
    return spec.version.value if spec.HasField("version") else None


def _not_found(name: str, version: int | None) -> tf.errors.NotFoundError:
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return errors.NotFound(f"Servable not found for request: {asked}")
