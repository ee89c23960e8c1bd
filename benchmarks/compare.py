"""Say what changed between two results of a benchmark, beyond the spread of their rounds.

    python -m benchmarks.compare BEFORE.json AFTER.json

A figure that was measured in several rounds stands in a result as its median, least and most. It
changed when all rounds of one result lie on the same side of all rounds of the other: with five
rounds each, noise alone does that to one figure in 126. Figures without a spread are left alone.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

Spread = dict[str, float]


@dataclass(frozen=True)
class Change:
    """A figure, by its place in the result, and what it was and is."""

    name: str
    before: Spread
    after: Spread

    def __str__(self) -> str:
        """One line: before, after, by how much."""
        text = f"{self.name}: {_text(self.before)} -> {_text(self.after)}"
        if self.before["median"]:
            text += f", {self.after['median'] / self.before['median'] - 1:+.0%}"
        return text


def spreads(result: object, place: str = "") -> Iterator[tuple[str, Spread]]:
    """All figures with a spread, by their places, such as `curve[3].p99_of_rounds`."""
    if isinstance(result, dict):
        if result.keys() == {"median", "least", "most"}:
            yield place, result
            return
        for key, value in result.items():
            yield from spreads(value, f"{place}.{key}" if place else key)
    elif isinstance(result, list):
        for number, value in enumerate(result):
            yield from spreads(value, f"{place}[{number}]")


def changes(before: dict, after: dict) -> list[Change]:
    """The figures that both have, and whose rounds do not overlap."""
    old, new = dict(spreads(before)), dict(spreads(after))
    return [
        Change(name, old[name], new[name])
        for name in old
        if name in new
        and (old[name]["most"] < new[name]["least"] or new[name]["most"] < old[name]["least"])
        and not (_single(old[name]) or _single(new[name]))
    ]


def differences_of_machines(before: dict, after: dict) -> list[str]:
    """What of the machine is not the same; then changes are the machine's, and not the code's."""
    old, new = before.get("machine", {}), after.get("machine", {})
    return [
        f"{key}: {old.get(key)} -> {new.get(key)}"
        for key in ("cpu", "cpus", "system", "python")
        if old.get(key) != new.get(key)
    ]


def report(before: dict, after: dict) -> str:
    """What a person wants to read of it."""
    lines = [f"another machine, {each}" for each in differences_of_machines(before, after)]
    lines += [str(change) for change in changes(before, after)]
    count = len(dict(spreads(before)).keys() & dict(spreads(after)).keys())
    lines += [f"{count} figures compared, {len(changes(before, after))} changed beyond noise"]
    return "\n".join(lines)


def _single(spread: Spread) -> bool:
    """Whether nothing is known of its noise: one round, or all rounds alike."""
    return spread["least"] == spread["most"]


def _text(spread: Spread) -> str:
    return f"{spread['median']:g} ({spread['least']:g} to {spread['most']:g})"


def main() -> None:
    """Compare two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args()
    print(report(*(json.loads(path.read_text()) for path in (options.before, options.after))))


if __name__ == "__main__":
    main()
