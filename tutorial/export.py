"""Turn the notebooks' cells marked `#| export` into the modules of the gateway.

A notebook that exports says so once with `#| default_exp NAME`, nbdev's directive; its cells
whose first line is `#| export` become gateway/NAME.py, in the notebook's order, and those with
`#| export OTHER` become gateway/OTHER.py. The sentence behind `>` at the notebook's top becomes the
docstring of NAME; that of OTHER is the last such sentence before its first cell.

    python -m tutorial.export            write the modules
    python -m tutorial.export --check    compare only; exit 1 and show the difference
"""

import argparse
import ast
import difflib
import json
import re
import subprocess
import sys
from pathlib import Path

from tutorial import TutorialError

MENDING = "change the notebook, then run `make export`"
DEFAULT_EXP = re.compile(r"^#\| default_exp (\w+)\s*$", re.MULTILINE)
EXPORT = re.compile(r"\A#\| export(?:[ \t]+(\w+))?[ \t]*\n")
SUMMARY = re.compile(r"^> (.+)$", re.MULTILINE)
ORIGIN = re.compile(r"^Exported from (notebooks/\S+\.ipynb):", re.MULTILINE)


def read_cells(notebook: Path, kind: str) -> list[tuple[int, str]]:
    """The (position from 1, source) of the notebook's cells of one kind, `code` or `markdown`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        (position, "".join(cell["source"]))
        for position, cell in enumerate(cells, start=1)
        if cell["cell_type"] == kind
    ]


def render(notebook: Path) -> dict[str, str]:
    """The modules that a notebook exports, name to text; none for a notebook without directives.

    Raises TutorialError, with notebook and cell, for a cell that cannot stand in a module.
    """
    code = read_cells(notebook, "code")
    names = [name for _, source in code for name in DEFAULT_EXP.findall(source)]
    exported = [(n, match, source) for n, source in code if (match := EXPORT.match(source))]
    if not names and not exported:
        return {}
    if len(names) != 1:
        raise TutorialError(f"{notebook.name}: wants one `#| default_exp NAME`, has {len(names)}")
    cells: dict[str, list[tuple[int, str]]] = {names[0]: []}
    for position, match, source in exported:
        cells.setdefault(match[1] or names[0], []).append((position, source[match.end() :]))
    return {
        name: _module(notebook, name, parts, own=name == names[0]) for name, parts in cells.items()
    }


def _module(notebook: Path, name: str, cells: list[tuple[int, str]], *, own: bool) -> str:
    """The text of one module, the notebook's own or another, of cells as (position, source)."""
    for position, source in cells:
        try:
            ast.parse(source)
        except SyntaxError as error:  # magics and shell escapes end here too
            raise TutorialError(
                f"{notebook.name}, cell {position}, line {error.lineno}: "
                f"cannot be exported, it is not plain Python: {(error.text or '').strip()}"
            ) from None
    first = cells[0][0] if cells else float("inf")
    above = [source for position, source in read_cells(notebook, "markdown") if position < first]
    summaries = SUMMARY.findall("\n".join(above))
    if not summaries:
        raise TutorialError(f"{notebook.name}: no `> sentence` above {name} for its docstring")
    summary = summaries[0 if own else -1]
    docstring = f'"""{summary}\n\nExported from notebooks/{notebook.name}: {MENDING}.\n"""'
    return _format("\n\n\n".join([docstring, *(source for _, source in cells)]))


def _format(text: str) -> str:
    """The text as `ruff format` writes it, imports sorted."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", "gateway/module.py", "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def compare(root: Path) -> dict[Path, tuple[str, str | None]]:
    """What differs between notebooks and modules: module path -> (text there, text wanted).

    An empty first text stands for a missing module; None in second place for an orphan, a module
    whose notebook is gone or exports it no more.
    """
    wanted: dict[Path, str] = {}
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        for name, text in render(notebook).items():
            path = root / "gateway" / f"{name}.py"
            if path in wanted:
                raise TutorialError(f"{notebook.name}: another notebook exports {path.name} too")
            wanted[path] = text
    there = {
        path: path.read_text(encoding="utf-8")
        for path in sorted((root / "gateway").glob("*.py"))
        if path in wanted or ORIGIN.search(path.read_text(encoding="utf-8"))
    }
    return {
        path: (there.get(path, ""), wanted.get(path))
        for path in sorted(wanted.keys() | there.keys())
        if there.get(path) != wanted.get(path)
    }


def describe(path: Path, there: str, wanted: str | None) -> str:
    """The difference of one module as a person reads it, with the command that mends it."""
    if wanted is None:
        return f"{path.name} says that a notebook exports it, but none does: {MENDING}"
    lines = difflib.unified_diff(
        there.splitlines(), wanted.splitlines(), f"gateway/{path.name}", "notebook", lineterm=""
    )
    return "\n".join([*lines, f"gateway/{path.name} is not what its notebook exports: {MENDING}"])


def main() -> None:
    """Run the exporter from the command line, in the project's root."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 on a difference"
    )
    check = parser.parse_args().check
    try:
        differences = compare(Path.cwd())
    except TutorialError as error:
        sys.exit(f"export: {error}")
    for path, (there, wanted) in differences.items():
        if check:
            print(describe(path, there, wanted))
        elif wanted is None:
            path.unlink()
            print(f"removed gateway/{path.name}: no notebook exports it")
        else:
            path.write_text(wanted, encoding="utf-8")
            print(f"wrote gateway/{path.name}")
    if check and differences:
        sys.exit(1)


if __name__ == "__main__":
    main()
