"""The gateway's settings: read once from GATEWAY_* variables, checked, and described.

Exported from notebooks/05b-keep-it-standing.ipynb: change the notebook, then run `make export`.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "GATEWAY_"
# What Kubernetes and Docker set in every container beside a Service named "gateway".
LINKS = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?|NAME|ENV_\w+)")


class SettingsError(ValueError):
    """A setting cannot be used; the message names it, its value, and what is wanted."""


def _address(text: str) -> str:
    """host:port, IPv6 in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):(\d{1,5})", text)
    if not match or not 0 < int(match[2]) < 2**16:
        raise SettingsError("a host and a port, such as 0.0.0.0:9696")
    return text


def _target(text: str) -> str:
    """An address, or a target in gRPC's own form."""
    return text if re.fullmatch(r"\w+:/\S+", text) else _address(text)


def _seconds(text: str | float) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < math.inf:
        raise SettingsError("seconds, more than 0, such as 2.5")
    return seconds


def _threads(text: str | int) -> int:
    if not re.fullmatch(r"\d{1,3}", str(text)) or int(text) < 3:
        raise SettingsError("a whole number from 3 to 999")
    return int(text)


def _file(text: str | Path) -> str:
    if not Path(text).is_file():
        raise SettingsError("the path of a file that is there: notebook 01 writes it")
    return str(text)


def _origins(text: str) -> str:
    if text:
        from gateway.fetch import read_origins  # here: it is large, and seldom needed

        try:
            read_origins(text)
        except ValueError as error:
            raise SettingsError("origins such as http://127.0.0.1:8081/, with commas") from error
    return text


def _version(text: str) -> str:
    if not re.fullmatch(r"[\w.-]*", text):
        raise SettingsError("nothing, a number, or a version label such as canary")
    return text


def _signature(text: str) -> str:
    if not re.fullmatch(r"[\w./-]*", text):
        raise SettingsError("nothing, or a signature of the model such as serving_uint8")
    return text


def _level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise SettingsError("debug, info, warning or error")
    return text.lower()


def _setting(default: Any, check: Callable[[Any], Any], meaning: str) -> Any:
    return field(default=default, metadata={"check": check, "meaning": meaning})


@dataclass(frozen=True)
class Settings:
    """How a gateway is to run. Raises SettingsError for the first value that cannot be used."""

    bind: str = _setting("0.0.0.0:9696", _address, "where callers reach it")
    admin_bind: str = _setting(
        "0.0.0.0:9697", _address, "where `/livez`, `/readyz` and `/metrics` are; not for callers"
    )
    model_address: str = _setting(
        "localhost:8500",
        _target,
        "the model server's gRPC address; all that DNS knows under its name share the calls."
        " Or several: `ipv4:///10.0.0.1:8500,10.0.0.2:8500`",
    )
    model_version: str = _setting(
        "", _version, "a version of the model by its number, or by a label such as `canary`"
    )
    model_signature: str = _setting(
        "",
        _signature,
        "the one signature of the model to call; by itself it calls the contract's, or where the"
        " model has it `serving_uint8`, which takes a quarter of the bytes",
    )
    contract: str = _setting("contract.json", _file, "the model's contract")
    request_timeout: float = _setting(
        8.0,
        _seconds,
        "seconds that a whole request may take: fetch, decode, model; and in which it must be here",
    )
    model_timeout: float = _setting(
        3.0,
        _seconds,
        "seconds of these that the model may take, waiting for it to come back included",
    )
    allowed_origins: str = _setting(
        "",
        _origins,
        "where it may fetch pictures besides the public internet, for development:"
        " comma-separated, each with its slash, such as `http://127.0.0.1:8081/`",
    )
    threads: int = _setting(
        40, _threads, "threads; what comes when all but two are busy is refused with a 503"
    )
    log_level: str = _setting("info", _level, "`debug`, `info`, `warning` or `error`")

    def __post_init__(self) -> None:
        """Check every value."""
        for one in fields(self):
            value = getattr(self, one.name)
            try:
                object.__setattr__(self, one.name, one.metadata["check"](value))
            except SettingsError as error:
                name = PREFIX + one.name.upper()
                raise SettingsError(f"{name} is {str(value)!r}, but wants {error}") from error

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """The settings in the GATEWAY_* variables; raises SettingsError, for unknown ones too."""
        known = {one.name.upper(): one.name for one in fields(cls)}
        given = {
            name.removeprefix(PREFIX): value
            for name, value in environment.items()
            if name.startswith(PREFIX) and not LINKS.fullmatch(name)
        }
        for name in given.keys() - known.keys():
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are {', '.join(known)}"
            raise SettingsError(f"{PREFIX}{name} is no setting of the gateway: {hint}")
        return cls(**{known[name]: value for name, value in given.items()})

    def configuration(self) -> dict[str, Any]:
        """Name in upper case to value, as a Flask app takes them."""
        return {one.name.upper(): getattr(self, one.name) for one in fields(self)}


def defaults() -> dict[str, Any]:
    """What applies where nothing is set, name in upper case to value."""
    return {one.name.upper(): one.default for one in fields(Settings)}


def table() -> str:
    """The settings as a table in Markdown, for the README."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for one in fields(Settings):
        default = f"`{one.default}`" if str(one.default) else "nothing"
        rows.append(f"| `{PREFIX}{one.name.upper()}` | {default} | {one.metadata['meaning']} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
