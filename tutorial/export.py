"""Turn the notebooks' cells marked `#| export` into the gateway's core modules.

    python -m tutorial.export

A notebook that exports says so once with `#| default_exp NAME`, nbdev's directive. Its cells whose
first line is `#| export` become gateway/NAME.py, in the notebook's order. The sentence after `>` at
the notebook's top becomes the module's docstring.
"""

import ast
import json
import re
from pathlib import Path

from tutorial import ROOT, TutorialError, one_line_errors

FIX = "change the notebook, then run `make export`"
DEFAULT_EXP = re.compile(r"^#\| default_exp (\w+)\s*$", re.MULTILINE)
EXPORT = re.compile(r"\A#\| export[ \t]*\n")
SUMMARY = re.compile(r"^> (.+)$", re.MULTILINE)
ORIGIN = re.compile(r"^Exported from notebooks/\S+\.ipynb:", re.MULTILINE)


def render(notebook: Path) -> tuple[str, str] | None:
    """Return the name and the text of the module that a notebook exports, or None.

    Raises TutorialError, with notebook and cell, for a cell that cannot be exported.
    """
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells]
    names = [name for source in sources for name in DEFAULT_EXP.findall(source)]
    exported = {n: EXPORT.sub("", s) for n, s in enumerate(sources, 1) if EXPORT.match(s)}
    if not names and not exported:
        return None
    if len(names) != 1:
        raise TutorialError(f"{notebook.name}: wants one `#| default_exp NAME`, has {len(names)}")
    for number, source in exported.items():
        try:
            ast.parse(source)
        except SyntaxError as error:  # magics and shell commands
            raise TutorialError(
                f"{notebook.name}, cell {number}, line {error.lineno + 1}: cannot be exported, it"
                f" is not plain Python: {(error.text or '').strip()}"
            ) from None
    summary = SUMMARY.search(sources[0])
    if not summary:
        raise TutorialError(f"{notebook.name}: the first cell has no `> sentence` for a docstring")
    docstring = f'"""{summary[1]}\n\nExported from notebooks/{notebook.name}: {FIX}.\n"""\n\n'
    return names[0], docstring + "\n\n\n".join(exported.values()) + "\n"


def wanted_modules(root: Path) -> dict[Path, str]:
    """Return the text of each module that a notebook exports, by its path."""
    wanted: dict[Path, str] = {}
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        if module := render(notebook):
            path = root / "gateway" / f"{module[0]}.py"
            if path in wanted:
                raise TutorialError(f"{notebook.name}: another notebook exports {path.name} too")
            wanted[path] = module[1]
    return wanted


def exported_modules(root: Path) -> dict[Path, str]:
    """Return the text of each module that says that a notebook exports it, by its path."""
    texts = {path: path.read_text(encoding="utf-8") for path in (root / "gateway").glob("*.py")}
    return {path: text for path, text in texts.items() if ORIGIN.search(text)}


def write_modules(root: Path) -> None:
    """Write the modules that the notebooks export, and remove those that none exports."""
    wanted = wanted_modules(root)
    for path in exported_modules(root).keys() - wanted.keys():
        path.unlink()
        print(f"removed gateway/{path.name}: no notebook exports it")
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
        print(f"wrote gateway/{path.name}")


if __name__ == "__main__":
    with one_line_errors("make export"):
        write_modules(ROOT)
