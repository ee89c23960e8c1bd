"""Say what changed between two results of a benchmark by more than the spread of their rounds.

A result has the median, the least and the most of each figure. A figure changed if all rounds of
one result lie on the same side of all rounds of the other. With five rounds each, noise alone does
that to one figure in 126. Figures of a single round are left out.
"""

from collections.abc import Iterator

Spread = dict[str, float]


def spreads(result: object, place: str = "") -> Iterator[tuple[str, Spread]]:
    """Yield all figures with a spread, by their places, such as `curve[3].p99_of_rounds`."""
    if isinstance(result, dict) and result.keys() == {"median", "least", "most"}:
        yield place, result
    elif isinstance(result, dict):
        for key, value in result.items():
            yield from spreads(value, f"{place}.{key}" if place else key)
    elif isinstance(result, list):
        for number, value in enumerate(result):
            yield from spreads(value, f"{place}[{number}]")


def changed(old: Spread, new: Spread) -> bool:
    """Return whether the rounds of two figures do not overlap, and both have several rounds."""
    apart = old["most"] < new["least"] or new["most"] < old["least"]
    return apart and old["least"] < old["most"] and new["least"] < new["most"]


def report(before: dict, after: dict) -> str:
    """Return a line for each change, and for each difference between the machines."""
    machines = before.get("machine", {}), after.get("machine", {})
    lines = [
        f"another machine, {key}: {machines[0].get(key)} -> {machines[1].get(key)}"
        for key in ("cpu", "cpus", "system", "python")
        if machines[0].get(key) != machines[1].get(key)
    ]
    old, new = dict(spreads(before)), dict(spreads(after))
    both = [name for name in old if name in new]
    changes = [name for name in both if changed(old[name], new[name])]
    for name in changes:
        line = f"{name}: {_text(old[name])} -> {_text(new[name])}"
        if old[name]["median"]:
            line += f", {new[name]['median'] / old[name]['median'] - 1:+.0%}"
        lines.append(line)
    lines.append(f"{len(both)} figures compared, {len(changes)} changed beyond noise")
    return "\n".join(lines)


def _text(figure: Spread) -> str:
    return f"{figure['median']:g} ({figure['least']:g} to {figure['most']:g})"
