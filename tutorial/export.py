"""Turn the notebooks' cells marked `#| export` into the gateway's core modules.

A notebook that exports says so once with `#| default_exp NAME`, nbdev's directive. Its cells whose
first line is `#| export` become gateway/NAME.py, in the notebook's order. The sentence after `>` at
the notebook's top becomes the module's docstring.

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

FIX = "change the notebook, then run `make export`"
DEFAULT_EXP = re.compile(r"^#\| default_exp (\w+)\s*$", re.MULTILINE)
EXPORT = re.compile(r"\A#\| export[ \t]*\n")
SUMMARY = re.compile(r"^> (.+)$", re.MULTILINE)
ORIGIN = re.compile(r"^Exported from (notebooks/\S+\.ipynb):", re.MULTILINE)


def read_cells(notebook: Path) -> list[tuple[str, str]]:
    """Return the notebook's cells as (kind, source); the kind is `code` or `markdown`."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in cells]


def render(notebook: Path) -> tuple[str, str] | None:
    """Return the name and the text of the module that a notebook exports, or None.

    Raises TutorialError, with notebook and cell, for a cell that cannot be exported.
    """
    cells = read_cells(notebook)
    code = [(number, source) for number, (kind, source) in enumerate(cells, 1) if kind == "code"]
    names = [name for _, source in code for name in DEFAULT_EXP.findall(source)]
    exported = [(number, source) for number, source in code if EXPORT.match(source)]
    if not names and not exported:
        return None
    if len(names) != 1:
        raise TutorialError(f"{notebook.name}: wants one `#| default_exp NAME`, has {len(names)}")
    for number, source in exported:
        check_python(notebook, number, source)
    summary = next((SUMMARY.search(s) for kind, s in cells if kind == "markdown"), None)
    if not summary:
        raise TutorialError(f"{notebook.name}: the first cell has no `> sentence` for a docstring")
    docstring = f'"""{summary[1]}\n\nExported from notebooks/{notebook.name}: {FIX}.\n"""'
    parts = [docstring, *(EXPORT.sub("", source) for _, source in exported)]
    return names[0], format_module("\n\n\n".join(parts))


def check_python(notebook: Path, number: int, source: str) -> None:
    """Raise TutorialError if a cell is not plain Python: magics and shell commands are not."""
    try:
        ast.parse(source)
    except SyntaxError as error:
        raise TutorialError(
            f"{notebook.name}, cell {number}, line {error.lineno}: "
            f"cannot be exported, it is not plain Python: {(error.text or '').strip()}"
        ) from None


def format_module(text: str) -> str:
    """Return the text as `ruff format` writes it, with sorted imports."""
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
    """Return what differs: module path -> (text there, text wanted).

    The first text is empty for a missing module. The second is None for a module that says that a
    notebook exports it, although none does.
    """
    wanted: dict[Path, str] = {}
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        if module := render(notebook):
            path = root / "gateway" / f"{module[0]}.py"
            if path in wanted:
                raise TutorialError(f"{notebook.name}: another notebook exports {path.name} too")
            wanted[path] = module[1]
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "gateway").glob("*.py")}
    there = {path: text for path, text in texts.items() if path in wanted or ORIGIN.search(text)}
    return {
        path: (there.get(path, ""), wanted.get(path))
        for path in sorted(wanted.keys() | there.keys())
        if there.get(path) != wanted.get(path)
    }


def describe(path: Path, there: str, wanted: str | None) -> str:
    """Return the difference of one module, and the command that fixes it."""
    if wanted is None:
        return f"{path.name} says that a notebook exports it, but none does: {FIX}"
    lines = difflib.unified_diff(
        there.splitlines(), wanted.splitlines(), f"gateway/{path.name}", "notebook", lineterm=""
    )
    return "\n".join([*lines, f"gateway/{path.name} is not what its notebook exports: {FIX}"])


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
