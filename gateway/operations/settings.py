"""Read the gateway's settings from GATEWAY_* variables, once, and check them.

`python -m gateway.operations.settings` prints them as a table.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from gateway import USER_AGENT

PREFIX = "GATEWAY_"
# Kubernetes and Docker set these in every container beside a Service named "gateway".
LINKS = re.compile(r"GATEWAY_(SERVICE_(HOST|PORT\w*)|PORT(_\d+_\w+)?|NAME|ENV_\w+)")


class SettingsError(ValueError):
    """Report a setting that cannot be used; the message names it, its value, and what it wants."""


def is_address(text: str) -> bool:
    """Return whether a text is host:port, with an IPv6 host in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.%]+\]|[\w.-]+):(\d{1,5})", text)
    return bool(match) and 0 < int(match[2]) < 2**16


def are_origins(text: str) -> bool:
    """Return True for a list of origins. Raises ValueError for another text."""
    if text:
        from gateway.fetch import read_origins  # imported here because it loads slowly

        read_origins(text)
    return True


class Setting(NamedTuple):
    """Describe one setting. Its value gets the type of the default before it is checked."""

    default: Any
    meaning: str
    check: Callable[[Any], object]  # whether a value can be used; may raise ValueError
    wants: str


ADDRESS = "a host and a port, such as 0.0.0.0:9696"
SECONDS = "seconds, more than 0, such as 2.5"
SETTINGS = {
    "BIND": Setting("0.0.0.0:9696", "where callers reach it", is_address, ADDRESS),
    "ADMIN_BIND": Setting(
        "0.0.0.0:9697",
        "where `/livez`, `/readyz` and `/metrics` are; not for callers",
        is_address,
        ADDRESS,
    ),
    "MODEL_ADDRESS": Setting(
        "localhost:8500",
        "the model server's gRPC address; all that DNS knows under its name share the calls."
        " Or several: `ipv4:///10.0.0.1:8500,10.0.0.2:8500`",
        lambda text: is_address(text) or re.fullmatch(r"(dns|ipv4|ipv6|unix):/\S+", text),
        "a host and a port, such as model:8500, or a target in gRPC's form",
    ),
    "MODEL_VERSION": Setting(
        "",
        "a version of the model by its number, or by a label such as `canary`",
        partial(re.fullmatch, r"[\w.-]*"),
        "nothing, a number, or a version label such as canary",
    ),
    "CONTRACT": Setting(
        "contract.json",
        "the model's contract",
        lambda path: Path(path).is_file(),
        "the path of a file that is there: notebook 01 writes it",
    ),
    "REQUEST_TIMEOUT": Setting(
        8.0,
        "seconds for a whole request: fetch, decode, model; its bytes must arrive in them, too",
        lambda seconds: 0 < seconds < inf,
        SECONDS,
    ),
    "MODEL_TIMEOUT": Setting(
        3.0,
        "the part of these seconds for the model; includes the wait for a server that restarts",
        lambda seconds: 0 < seconds < inf,
        SECONDS,
    ),
    "MODEL_WAIT": Setting(
        0.0,
        "seconds that a request waits for a model server where none runs (scaled to zero), before"
        " the time of the request begins; with 0, the gateway is not ready without one",
        lambda seconds: 0 <= seconds < inf,
        "seconds, or 0 for no wait",
    ),
    "ALLOWED_ORIGINS": Setting(
        "",
        "where it may fetch pictures in addition to the public internet, for development:"
        " comma-separated, each with its slash, such as `http://127.0.0.1:8081/`",
        are_origins,
        "origins such as http://127.0.0.1:8081/, with commas",
    ),
    "USER_AGENT": Setting(
        USER_AGENT,
        "how it introduces itself to servers that it fetches from: put your contact into it, some"
        " of them want one",
        partial(re.fullmatch, "[ -~]+"),
        "plain text such as my-gateway/1.0 (me@example.com)",
    ),
    "PROXIES": Setting(
        0,
        "how many proxies are in front of it, whose X-Forwarded-For, -Proto, -Host and -Prefix it"
        " believes",
        range(10).__contains__,
        "a whole number from 0 to 9",
    ),
    "THREADS": Setting(
        80,
        "how many threads; two fewer requests are handled at once, the next one gets a 503",
        range(3, 1000).__contains__,
        "a whole number from 3 to 999",
    ),
    "LOG_LEVEL": Setting(
        "info",
        "`debug`, `info`, `warning` or `error`",
        partial(re.fullmatch, "(?i:debug|info|warning|error)"),
        "debug, info, warning or error",
    ),
}


def defaults() -> dict[str, Any]:
    """Return the default of each setting."""
    return {name: setting.default for name, setting in SETTINGS.items()}


def read_settings(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the value of each setting, from the GATEWAY_* variables and the defaults.

    Raises SettingsError for the first that is unknown or cannot be used.
    """
    given = {
        name.removeprefix(PREFIX): text
        for name, text in environment.items()
        if name.startswith(PREFIX) and not LINKS.fullmatch(name)
    }
    for name in given.keys() - SETTINGS.keys():
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are {', '.join(SETTINGS)}"
        raise SettingsError(f"{PREFIX}{name} is no setting of the gateway: {hint}")
    return {name: read_value(name, text) for name, text in (defaults() | given).items()}


def read_value(name: str, text: Any) -> Any:
    """Return the value of a setting. Raises SettingsError if it cannot be used."""
    setting = SETTINGS[name]
    try:
        value = type(setting.default)(text)
        if not setting.check(value):
            raise ValueError
    except ValueError as error:
        message = f"{PREFIX}{name} is {str(text)!r}, but wants {setting.wants}"
        raise SettingsError(message) from error
    return value


def table() -> str:
    """Return the settings as a table in Markdown, for docs/gateway.md."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, setting in SETTINGS.items():
        default = f"`{setting.default}`" if str(setting.default) else "nothing"
        rows.append(f"| `{PREFIX}{name}` | {default} | {setting.meaning} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
