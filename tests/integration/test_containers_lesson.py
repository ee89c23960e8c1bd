"""Lesson 06 where Docker answers: it builds, runs one gateway and five, and stops all of them."""

import json
import os
import sys

import pytest

from tutorial import services
from tutorial.notebooks import execute


def printed(notebook):
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join("".join(output.get("text", "")) for output in outputs)


@pytest.mark.usefixtures("starter_model")
def test_lesson_06_uses_docker_where_it_answers(tmp_path, monkeypatch):
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.fake_docker "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(services.ROOT))
    assert services.docker_composes()
    lesson = services.ROOT / "notebooks/06-containers.ipynb"
    output = printed(execute(lesson, output=tmp_path / "executed.ipynb"))
    assert "Docker builds and runs." in output
    assert "\nt-shirt\n" in output and "{'t-shirt': 10}" in output
