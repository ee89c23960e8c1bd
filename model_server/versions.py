"""Which versions are served: watch a model's base path, load what is new, swap, unload the rest."""

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tensorflow as tf
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus
from tensorflow_serving.apis.model_pb2 import ModelSpec
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig, ModelServerConfig

from model_server import config, errors, monitoring, warmup
from model_server.config import BatchingParameters, VersionPolicy
from model_server.runtime import SavedModel

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadOptions:
    """How versions are loaded."""

    tags: tuple[str, ...] = (tf.saved_model.SERVING,)
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
    servable: SavedModel | None = None
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
                servable = SavedModel(
                    path, tags=self._options.tags, batching=self._options.batching
                )
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
    def lease(self, spec: ModelSpec) -> Iterator[tuple[int, SavedModel]]:
        """Lend the servable a request names, with its version; see Model.lease.

        Raises tf.errors.OpError: no name, an unknown label, no such version available.
        """
        if not spec.name:
            raise errors.InvalidArgument("ModelSpec has no name specified.")
        version = self._asked_version(spec)
        if spec.name not in self._models:
            raise _not_found(spec.name, version)
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


def _not_found(name: str, version: int | None) -> tf.errors.NotFoundError:
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return errors.NotFound(f"Servable not found for request: {asked}")
