"""The versions of one model: look at its folder, load what is new, swap, unload the rest."""

import ctypes
import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig

from model_server import errors, warmup
from model_server.config import wanted_versions
from model_server.servable import Servable

_log = logging.getLogger(__name__)


@dataclass
class Version:
    """What is known of a version; `state` is one of ModelVersionStatus."""

    modified: set[int]  # the times of its files when it was loaded
    state: int = ModelVersionStatus.LOADING
    error: tf.errors.OpError | None = None  # that loading it ended with
    servable: Servable | None = None
    users: int = 0  # requests that are using the servable at this moment


class Model:
    """One model: of the version folders under its base path, those its policy wants are served.

    Only one thread at a time may call `poll` and `unload_all_but`.
    """

    def __init__(self, name: str, load: Callable[[Path], Servable]):
        """Name a model whose version folders are loaded with `load`."""
        self.name = name
        self._load_servable = load
        self._versions: dict[int, Version] = {}
        self._changed = threading.Condition()

    def poll(self, listed: ModelConfig) -> None:
        """Look at the base path once, and bring what is served in line with it.

        A new version is loaded and warmed up before the one it replaces is unloaded; if it cannot
        be loaded, the old one stays, and the new one is tried again when its files change.
        """
        try:
            folders = _version_folders(listed.base_path)
        except OSError as error:
            _log.warning("%s, the base path of %s: %s", listed.base_path, self.name, error.strerror)
            return
        wanted = wanted_versions(listed.model_version_policy, set(folders))
        if not wanted:
            _log.warning("%s has no version of %s to serve", listed.base_path, self.name)
        served = [number for number in wanted if self._load(number, folders[number])]
        if served or not wanted:  # a version that cannot be loaded replaces nothing
            self.unload_all_but(wanted)

    def unload_all_but(self, kept: Collection[int]) -> None:
        """Unload versions, each when its last request is answered."""
        for number in set(self.available()) - set(kept):
            version = self._versions[number]
            with self._changed:
                version.state = ModelVersionStatus.UNLOADING
                self._changed.wait_for(lambda version=version: not version.users)
                servable, version.servable = version.servable, None
            servable.close()
            with self._changed:
                version.state = ModelVersionStatus.END
            _log.info("Unloaded version %d of %s", number, self.name)

    def available(self) -> list[int]:
        """Return the versions that are served, newest first."""
        return [
            n for n, version in self.versions() if version.state == ModelVersionStatus.AVAILABLE
        ]

    def versions(self) -> list[tuple[int, Version]]:
        """Return every version there has been, newest first."""
        with self._changed:
            return sorted(self._versions.items(), reverse=True)

    @contextmanager
    def lease(self, version: int | None = None) -> Iterator[tuple[int, Servable]]:
        """Lend a version, or the newest available one, with its number: it stays loaded meanwhile.

        Raises tf.errors.NotFoundError where there is none.
        """
        with self._changed:
            available = [number for number in self.available() if version in (None, number)]
            if not available:
                raise not_served(self.name, version)
            lent = self._versions[available[0]]
            lent.users += 1
        try:
            yield available[0], lent.servable
        finally:
            with self._changed:
                lent.users -= 1
                self._changed.notify_all()

    def _load(self, number: int, path: Path) -> bool:
        """Load a version unless it is served or failed with the same files; say if it is served."""
        known = self._versions.get(number)
        if known and known.state == ModelVersionStatus.AVAILABLE:
            return True
        modified = _modification_times(path)
        if known and known.error and known.modified == modified:
            return False
        version = Version(modified)
        with self._changed:
            self._versions[number] = version
        started, servable = time.monotonic(), None
        try:
            servable = self._load_servable(path)
            requests = warmup.replay(servable, path)
        except Exception as error:  # whatever is wrong with this version, the others are served
            if servable:
                servable.close()
            if not isinstance(error, tf.errors.OpError):
                error = errors.Unknown(f"{type(error).__name__}: {error}")
            reason = " ".join(error.message.split())
            _log.error("Version %d of %s cannot be loaded: %s", number, self.name, reason)
            with self._changed:
                version.state, version.error = ModelVersionStatus.END, error
            return False
        _give_back_memory()
        with self._changed:
            version.state, version.servable = ModelVersionStatus.AVAILABLE, servable
        seconds = time.monotonic() - started
        text = "Loaded version %d of %s in %.1f s; warm-up requests: %d"
        _log.info(text, number, self.name, seconds, requests)
        return True


def _give_back_memory() -> None:
    """Return to the system what loading needed for a while, where the C library can (glibc)."""
    gc.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _version_folders(base_path: str) -> dict[int, Path]:
    """Return the folders that are named as a version, by number. Raises OSError."""
    return {
        int(entry.name): Path(entry.path)
        for entry in os.scandir(base_path)
        if entry.name.isascii() and entry.name.isdigit() and entry.is_dir()
        if int(entry.name) < 2**63  # versions are int64
    }


def _modification_times(folder: Path) -> set[int]:
    """Return when a folder and what is in it changed last, or nothing if a file just vanished."""
    try:
        return {path.lstat().st_mtime_ns for path in (folder, *folder.rglob("*"))}
    except OSError:
        return set()


def not_served(name: str, version: int | None) -> tf.errors.NotFoundError:
    """Return the error of a request for a model, or a version of it, that is not served."""
    which = "a version" if version is None else f"version {version}"
    return errors.NotFound(f'model "{name}": {which} is not served here')
