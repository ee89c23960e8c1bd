"""The gateway's modules are what the notebooks export, and the exporter refuses what it cannot."""

import ast
import itertools
import json
from pathlib import Path

import pytest

from tutorial import TutorialError
from tutorial.export import FIX, exported_modules, render, wanted_modules, write_modules


def notebook(folder: Path, *code: str, name: str = "01-lesson.ipynb") -> Path:
    """Write a notebook with a title cell and the given code cells."""
    cells = [{"cell_type": "markdown", "source": ["# 01 · Lesson\n", "> Says what it is.\n"]}]
    cells += [{"cell_type": "code", "source": source.splitlines(True)} for source in code]
    path = folder / "notebooks" / name
    path.parent.mkdir(exist_ok=True)
    (folder / "gateway").mkdir(exist_ok=True)
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_modules_are_what_the_notebooks_export(root):
    there, wanted = exported_modules(root), wanted_modules(root)
    assert there.keys() == wanted.keys(), FIX
    for path in wanted:
        assert there[path].splitlines() == wanted[path].splitlines(), FIX


def test_render_joins_exported_cells(tmp_path):
    path = notebook(
        tmp_path,
        "#| default_exp lesson\nimport this",
        "#| export\nimport os\nimport sys",
        "print('shown, not exported')",
        "#| export\ndef f():\n    return os, sys",
    )
    assert render(path) == (
        "lesson",
        '"""Says what it is.\n\n'
        "Exported from notebooks/01-lesson.ipynb: change the notebook, then run `make export`.\n"
        '"""\n\nimport os\nimport sys\n\n\ndef f():\n    return os, sys\n',
    )


def test_render_refuses_a_notebook_without_a_sentence(tmp_path):
    path = notebook(tmp_path, "#| default_exp lesson", "#| export\nx = 1")
    path.write_text(path.read_text().replace("> Says", "Says"))
    with pytest.raises(TutorialError, match="no `> sentence`"):
        render(path)


@pytest.mark.parametrize("line", ["%matplotlib inline", "!ls", "x = = 1"])
def test_render_names_the_line_that_is_not_python(tmp_path, line):
    path = notebook(tmp_path, "#| default_exp lesson", f"#| export\n\n{line}")
    with pytest.raises(TutorialError, match=r"01-lesson.ipynb, cell 3, line 3.*not plain Python"):
        render(path)


@pytest.mark.parametrize("code", [["#| export\nx = 1"], ["#| default_exp a", "#| default_exp b"]])
def test_render_wants_exactly_one_module_name(tmp_path, code):
    with pytest.raises(TutorialError, match=r"wants one `#\| default_exp NAME`"):
        render(notebook(tmp_path, *code))


def test_wanted_modules_refuses_two_notebooks_for_one_module(tmp_path):
    notebook(tmp_path, "#| default_exp lesson", name="01-a.ipynb")
    notebook(tmp_path, "#| default_exp lesson", name="02-b.ipynb")
    with pytest.raises(TutorialError, match="another notebook exports"):
        wanted_modules(tmp_path)


def test_write_modules_writes_what_is_exported_and_removes_what_no_longer_is(tmp_path):
    notebook(tmp_path, "#| default_exp missing", name="01-a.ipynb")
    notebook(tmp_path, "#| default_exp changed", "#| export\nx = 1", name="02-b.ipynb")
    gateway = tmp_path / "gateway"
    (gateway / "changed.py").write_text("x = 2\n")
    (gateway / "orphan.py").write_text('"""\nExported from notebooks/03-c.ipynb: …\n"""\n')
    (gateway / "by_hand.py").write_text('"""No notebook exports it."""\n')
    assert exported_modules(tmp_path).keys() == {gateway / "orphan.py"}

    write_modules(tmp_path)

    assert sorted(path.stem for path in gateway.iterdir()) == ["by_hand", "changed", "missing"]
    assert exported_modules(tmp_path) == wanted_modules(tmp_path)
    assert "\nx = 1\n" in (gateway / "changed.py").read_text()


CODE_CELLS = [
    (path, number, "".join(cell["source"]), following)
    for path in sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
    for cells in [json.loads(path.read_text())["cells"]]
    for number, (cell, following) in enumerate(itertools.pairwise(cells), start=1)
    if "".join(cell["source"]).startswith("#| export")
]


@pytest.mark.parametrize(
    ("source", "following"),
    [pytest.param(s, f, id=f"{path.stem}, cell {n}") for path, n, s, f in CODE_CELLS],
)
def test_an_exported_cell_is_one_short_definition_and_the_next_cell_tries_it(source, following):
    lines = [line for line in source.splitlines()[1:] if line.strip()]
    assert len(lines) <= 20
    defined = [
        node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    ]
    assert len(defined) <= 1
    if defined:
        assert following["cell_type"] == "code"
        assert "assert" in "".join(following["source"])
