"""The training notebook, run for two epochs on pictures made up for the purpose."""

import json

import nbformat
import numpy as np
import pytest
import tf_keras
from PIL import Image

from tutorial import TutorialError
from tutorial.notebooks import ROOT, execute

NOTEBOOK = ROOT / "notebooks/in-depth/train-the-starter-model.ipynb"
COLOURS = {"hat": (200, 60, 60), "pants": (60, 60, 200), "t-shirt": (60, 180, 60)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of noisy pictures, one colour a class."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in {"train": 22, "validation": 3}.items():
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 30, (40, 30, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


def run(notebook, folder, data):
    """Execute `notebook` with everything it writes in `folder`; return its printed output."""
    parameters = {
        "DATA_DIR": str(data),
        "OUT": str(folder / "model.h5"),
        "CHECKPOINTS": str(folder / "checkpoints"),
        "EPOCHS": 2,
        "IMAGE_SIZE": 32,
        "BATCH_SIZE": 16,
    }
    executed = nbformat.read(execute(notebook, parameters, folder / "out.ipynb"), as_version=4)
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def test_goes_on_after_an_interruption_and_writes_a_model_to_serve(data, tmp_path):
    interrupted = nbformat.read(NOTEBOOK, as_version=4)
    (loop,) = [cell for cell in interrupted.cells if "bar.update()" in cell.source]
    loop.source = loop.source.replace("bar.update()", "raise RuntimeError('cut off')")
    nbformat.write(interrupted, tmp_path / "interrupted.ipynb")
    with pytest.raises(TutorialError, match="cut off"):
        run(tmp_path / "interrupted.ipynb", tmp_path, data)
    history = tmp_path / "checkpoints" / "history.json"
    (first,) = json.loads(history.read_text())

    printed = run(NOTEBOOK, tmp_path, data)
    assert "2 epochs done" in printed
    assert "of 9 photos right" in printed
    assert json.loads(history.read_text())[0] == first  # not trained anew: even the time is kept

    model = tf_keras.models.load_model(tmp_path / "model.h5")
    assert model.input_names == ["input_8"]
    assert model.output_names == ["dense_7"]
    assert model.input_shape == (None, 299, 299, 3)
    assert model.output_shape == (None, 3)
    written = {path.name for path in tmp_path.glob("*.png")}
    assert written == {"curves.png", "confusion.png", "calibration.png"}


def test_says_where_the_photos_come_from(tmp_path):
    with pytest.raises(TutorialError, match="git clone https"):
        run(NOTEBOOK, tmp_path, tmp_path / "nowhere")


def test_the_committed_notebook_shows_none_of_the_photos():
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        if "plot_pictures" in cell.source:
            assert not cell.get("outputs"), "strip the output of this cell: the photos stay out"
