"""Read the gateway's settings from GATEWAY_* variables, once, and check them.

`python -m gateway.operations.settings` prints them as a table.
"""

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "GATEWAY_"
# Kubernetes and Docker set these in every container beside a Service named "gateway".
LINKS = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?|NAME|ENV_\w+)")


class SettingsError(ValueError):
    """Report a setting that cannot be used; the message names it, its value, and what it wants."""


def _is_address(text: str) -> bool:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):(\d{1,5})", text)
    return bool(match) and 0 < int(match[2]) < 2**16


def _is_target(text: str) -> bool:
    return bool(re.fullmatch(r"\w+:/\S+", text)) or _is_address(text)


def _are_origins(text: str) -> bool:
    from gateway.fetch import read_origins  # here: a large import, seldom needed

    read_origins(text)
    return True


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda text: bool(re.fullmatch(pattern, text))


def _setting(default: Any, meaning: str, check: Callable[[Any], bool], wants: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "check": check, "wants": wants})


def _address(default: str, meaning: str) -> Any:
    return _setting(default, meaning, _is_address, "a host and a port, such as 0.0.0.0:9696")


def _seconds(default: float, meaning: str) -> Any:
    return _setting(
        default,
        meaning,
        lambda seconds: 0 < seconds < math.inf,
        "seconds, more than 0, such as 2.5",
    )


@dataclass(frozen=True)
class Settings:
    """Hold the settings of a gateway. Raises SettingsError for the first that cannot be used."""

    bind: str = _address("0.0.0.0:9696", "where callers reach it")
    admin_bind: str = _address(
        "0.0.0.0:9697", "where `/livez`, `/readyz` and `/metrics` are; not for callers"
    )
    model_address: str = _setting(
        "localhost:8500",
        "the model server's gRPC address; all that DNS knows under its name share the calls."
        " Or several: `ipv4:///10.0.0.1:8500,10.0.0.2:8500`",
        _is_target,
        "a host and a port, such as localhost:8500",
    )
    model_version: str = _setting(
        "",
        "a version of the model by its number, or by a label such as `canary`",
        _matches(r"[\w.-]*"),
        "nothing, a number, or a version label such as canary",
    )
    model_signature: str = _setting(
        "",
        "the one signature of the model to call; by itself it calls the contract's, or where the"
        " model has it `serving_uint8`, which takes a quarter of the bytes",
        _matches(r"[\w./-]*"),
        "nothing, or a signature of the model such as serving_uint8",
    )
    contract: str = _setting(
        "contract.json",
        "the model's contract",
        lambda path: Path(path).is_file(),
        "the path of a file that is there: notebook 01 writes it",
    )
    request_timeout: float = _seconds(
        8.0,
        "seconds that a whole request may take: fetch, decode, model; and in which it must be here",
    )
    model_timeout: float = _seconds(
        3.0, "seconds of these that the model may take, waiting for it to come back included"
    )
    allowed_origins: str = _setting(
        "",
        "where it may fetch pictures besides the public internet, for development:"
        " comma-separated, each with its slash, such as `http://127.0.0.1:8081/`",
        _are_origins,
        "origins such as http://127.0.0.1:8081/, with commas",
    )
    threads: int = _setting(
        40,
        "threads; what comes when all but two are busy is refused with a 503",
        lambda number: 3 <= number <= 999,
        "a whole number from 3 to 999",
    )
    log_level: str = _setting(
        "info",
        "`debug`, `info`, `warning` or `error`",
        _matches("(?i:debug|info|warning|error)"),
        "debug, info, warning or error",
    )

    def __post_init__(self) -> None:
        """Turn every value into its type, and check it."""
        for one in fields(self):
            given = getattr(self, one.name)
            try:
                value = one.type(given)
                if not one.metadata["check"](value):
                    raise ValueError
            except ValueError as error:
                name, wants = PREFIX + one.name.upper(), one.metadata["wants"]
                raise SettingsError(f"{name} is {str(given)!r}, but wants {wants}") from error
            object.__setattr__(self, one.name, value)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Return the settings in the GATEWAY_* variables. Raises SettingsError for unknown ones."""
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
        """Return name in upper case to value, as a Flask app takes them."""
        return {one.name.upper(): getattr(self, one.name) for one in fields(self)}


def defaults() -> dict[str, Any]:
    """Return name in upper case to default."""
    return {one.name.upper(): one.default for one in fields(Settings)}


def table() -> str:
    """Return the settings as a table in Markdown, for the README."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for one in fields(Settings):
        default = f"`{one.default}`" if str(one.default) else "nothing"
        rows.append(f"| `{PREFIX}{one.name.upper()}` | {default} | {one.metadata['meaning']} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
