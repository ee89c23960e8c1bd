"""The versions of one model: look at its base path, load what is new, swap, unload the rest."""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from model_server import config, errors, monitoring
from model_server.config import BatchingParameters, VersionPolicy
from model_server.runtime import warmup
from model_server.runtime.servable import Engine, Servable
from model_server.runtime.tensorflow_engine import TensorFlowEngine

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded."""

    open_engine: Callable[[Path], Engine] = TensorFlowEngine
    batching: BatchingParameters | None = None
    warmup_iterations: int = 1  # how often each warm-up request is run
    retries: int = 0  # of a load that failed; besides, it is tried again when its files change
    retry_seconds: float = 60.0


class Status(NamedTuple):
    """What is known of a version: a state of ModelVersionStatus and the error that ended it."""

    version: int
    state: int
    error: tf.errors.OpError | None


@dataclass
class _Version:
    state: int = ModelVersionStatus.LOADING
    error: tf.errors.OpError | None = None
    servable: Servable | None = None
    users: int = 0  # requests that are using the servable at this moment
    files: frozenset = frozenset()  # as they were when it was loaded
    failures: int = 0  # to load it, with these files
    retry_at: float = 0.0  # as time.monotonic() counts


class Model:
    """One model: of the version folders under its base path, those its policy wants are served.

    `poll`, `configure` and `unload` belong to one thread at a time, everything else to any.
    """

    def __init__(
        self,
        name: str,
        base_path: Path,
        *,
        policy: VersionPolicy | None = None,
        options: LoadOptions | None = None,
    ):
        """Name a model and its folder of versions, which may come to exist later.

        Without a policy, the highest version is served.
        """
        self.name = name
        self._options = options or LoadOptions()
        self._versions: dict[int, _Version] = {}
        self._changed = threading.Condition()
        self._complaint = ""
        self.configure(base_path, policy or VersionPolicy())

    def configure(self, base_path: Path, policy: VersionPolicy) -> None:
        """Change what the next poll looks for, and where."""
        self._base_path, self._policy = base_path, policy
        self.retired = False

    def poll(self) -> None:
        """Look at the base path once, and bring what is served in line with it.

        A new version is loaded and warmed up before the one it replaces is unloaded; if it cannot
        be loaded, the old one stays, and the new one is tried again when its files change.
        """
        if self.retired:
            return
        try:
            folders = _version_folders(self._base_path)
        except OSError as error:
            self._complain(
                f"Could not find base path {self._base_path} for servable {self.name} ({error})"
            )
            return
        wanted = config.wanted_versions(self._policy, set(folders))
        if wanted:
            self._complaint = ""
        else:
            self._complain(
                f"No versions of servable {self.name} found under base path {self._base_path}. "
                "Did you forget to name your leaf directory as a number (eg. '/1/')?"
            )
        served = [number for number in wanted if self._load(number, folders[number])]
        if served or not wanted:  # never the last one for nothing
            self._unload_all_but(wanted)

    def retire(self) -> None:
        """Unload every version, and load none until the model is configured again."""
        self.retired = True
        self.unload()

    def available(self) -> list[int]:
        """Return the versions that are served."""
        with self._changed:
            return [
                number
                for number, version in self._versions.items()
                if version.state == ModelVersionStatus.AVAILABLE
            ]

    def statuses(self) -> list[Status]:
        """Return the status of every version there has been, newest first."""
        with self._changed:
            return [
                Status(number, version.state, version.error)
                for number, version in sorted(self._versions.items(), reverse=True)
            ]

    @contextmanager
    def lease(self, version: int | None = None) -> Iterator[tuple[int, Servable]]:
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
                raise not_found(self.name, version)
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
        self._unload_all_but([])

    def _load(self, number: int, path: Path) -> bool:
        """Load a version unless it is served or failed with the same files; say if it is served."""
        version = self._versions.get(number)
        if version and version.state == ModelVersionStatus.AVAILABLE:
            return True
        files = _fingerprint(path)
        failed = version and (version.error or version.state == ModelVersionStatus.LOADING)
        if failed and version.files == files:
            if version.error or time.monotonic() < version.retry_at:
                return False
        else:
            version = _Version(files=files)
            with self._changed:
                self._versions[number] = version
        started = time.monotonic()
        servable = None
        try:
            with monitoring.load(path):
                servable = Servable(self._options.open_engine(path), self._options.batching)
            requests = warmup.replay(servable, path, self._options.warmup_iterations)
        except Exception as error:  # whatever is wrong with this version, the others are served
            if servable:
                servable.close()
            if not isinstance(error, tf.errors.OpError):
                error = errors.Unknown(f"{type(error).__name__}: {error}")
            reason = " ".join(error.message.split())
            _log.error("Version %d of %s could not be loaded: %s", number, self.name, reason)
            version.failures += 1
            if version.failures <= self._options.retries:
                version.retry_at = time.monotonic() + self._options.retry_seconds
            else:
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

    def _unload_all_but(self, kept: list[int]) -> None:
        for number, version in self._versions.items():
            if number in kept:
                continue
            if version.state == ModelVersionStatus.LOADING:  # failed, and would be tried again
                version.state = ModelVersionStatus.END
            if version.state != ModelVersionStatus.AVAILABLE:
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


def not_found(name: str, version: int | None) -> tf.errors.NotFoundError:
    """Return the error of a request for a model, or a version of it, that is not served."""
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return errors.NotFound(f"Servable not found for request: {asked}")
