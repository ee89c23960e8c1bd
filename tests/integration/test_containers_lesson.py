"""Lesson 06 where Docker answers: it builds, runs one gateway and five, and stops all of them."""

import json

import pytest

from tutorial import services
from tutorial.notebooks import execute


@pytest.mark.usefixtures("starter_model", "fake_docker")
def test_containers_lesson_uses_docker_where_it_answers(tmp_path):
    assert services.docker_composes()
    lesson = services.ROOT / "notebooks/06-containers.ipynb"
    cells = json.loads(execute(lesson, output=tmp_path / "executed.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    said = "".join("".join(output.get("text", "")) for output in outputs)
    for words in ("Docker builds and runs.", "\nt-shirt\n", "{'t-shirt': 10}"):
        assert words in said
