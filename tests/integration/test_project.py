"""`make project` with an own model: the result serves the model and passes its own tests."""

import subprocess
import sys

from tutorial import ROOT, project
from tutorial.notebooks import run_cells

MODEL = ROOT / "tests/data/keras27-nested-xception-tiny.h5"
LABELS = "ant,bee,cat,cow,dog,eel,emu,fox,hen,yak"


def test_project_of_an_own_model_passes_its_own_tests(tmp_path, monkeypatch, capsys):
    def convert(model, model_name, labels, preprocessing, **_):
        """Do what tutorial.run.convert does, in this process and with another folder."""
        parameters = {"MODEL": model, "LABELS": labels, "PREPROCESSING": preprocessing}
        parameters |= {"MODEL_NAME": model_name, "MODELS_DIR": str(tmp_path)}
        lesson = ROOT / "notebooks/01-convert-model.ipynb"
        run_cells(lesson, parameters, until="## When it goes wrong")
        return str(tmp_path / model_name)

    folder = tmp_path / "pet-shop"
    monkeypatch.setattr(project, "convert", convert)
    settings = [f"--model={MODEL}", f"--labels={LABELS}", "--preprocessing=tf", "--model-name=pets"]
    monkeypatch.setattr(sys, "argv", ["project", str(folder), *settings])
    project.main()
    said = capsys.readouterr().out
    assert f"cd {folder}\n" in said and "make run" in said

    # Its gateway and its model server, not those that are installed here.
    monkeypatch.setenv("PYTHONPATH", str(folder))
    for command in ("build_stubs.py build/stubs", "-m pytest tests"):
        result = subprocess.run(
            [sys.executable, *command.split()], cwd=folder, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stdout + result.stderr
    assert "8 passed" in result.stdout
