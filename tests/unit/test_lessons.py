"""The form that all lessons share, so that a reader always knows where to look."""

import ast
import json
import re

import pytest

from tutorial import ROOT
from tutorial.notebooks import lessons


def cells(path, kind):
    notebook = json.loads(path.read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell) -> str:
    return "".join(cell["source"])


IN_DEPTH = sorted((ROOT / "notebooks/in-depth").glob("*.ipynb"))
pytestmark = pytest.mark.parametrize("lesson", [*lessons(), *IN_DEPTH], ids=lambda path: path.stem)


def test_lesson_follows_the_template(lesson):
    text = "\n\n".join(source(cell) for cell in cells(lesson, "markdown"))
    number = "" if lesson in IN_DEPTH else f"{lesson.stem.partition('-')[0]} · "
    parts = [
        rf"\A# {number}.+\n> .+\.\n",
        r"\n\*\*You will\*\*\n(- .+\n){3}",
        r"\n\*\*You need\*\* .+ minutes",
        r"\n## When it goes wrong\n",
        r"\n\*\*What you learned\*\*\n(- .+\n){3}",
        r"\n\*\*Exercises\*\*\n(\d\. .+\n){2,3}",
        r"\n\*\*Next\*\*: ",
    ]
    positions = [match.start() if (match := re.search(part, text)) else None for part in parts]
    assert None not in positions, parts[positions.index(None)]
    assert positions == sorted(positions)


def test_lesson_has_one_cell_of_parameters_with_comments(lesson):
    [cell] = [c for c in cells(lesson, "code") if "parameters" in c["metadata"].get("tags", [])]
    for line in source(cell).splitlines():
        assert re.fullmatch(r"[A-Z0-9_]+ = .+  # .+", line), line
    for statement in ast.parse(source(cell)).body:
        ast.literal_eval(statement.value)


def test_lesson_is_committed_as_one_clean_run(lesson):
    code = cells(lesson, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]


def test_lesson_holds_nothing_of_one_machine(lesson):
    text = lesson.read_text()
    assert str(ROOT) not in text
    assert not re.search(r"/(home|root|Users|tmp)/", text)
    assert len(text) < 400_000
