"""tutorial/notebooks: a notebook that fails says why in one line."""

import nbformat
import pytest

from tutorial import TutorialError
from tutorial.notebooks import execute

KILLED = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"  # as when memory is used up


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise MemoryError", r"^a\.ipynb failed with MemoryError: \(the executed copy"),
        (KILLED, r"^a\.ipynb was killed: is there enough memory\? \(the executed copy"),
    ],
    ids=["an error without words", "a killed kernel"],
)
def test_execute_says_in_one_line_why_a_notebook_failed(tmp_path, code, words):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, tmp_path / "a.ipynb")
    with pytest.raises(TutorialError, match=words):
        execute(tmp_path / "a.ipynb", output=tmp_path / "executed.ipynb")
    assert (tmp_path / "executed.ipynb").exists()
