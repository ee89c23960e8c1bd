"""The file of a model is found, and its format known, before TensorFlow is loaded."""

import subprocess
import sys
import zipfile

import h5py
import pytest

from tutorial import ROOT, TutorialError, sources

LAMBDA = '{"layers": [{"module": "keras.layers", "class_name": "Lambda"}]}'


def write(path, content=b""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_broken_zip(path):
    write_zip(path, "config.json", "metadata.json", text="the content")
    path.write_bytes(path.read_bytes().replace(b"the content", b"another one", 1))


def write_half_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = "{}"
    path.write_bytes(path.read_bytes()[:500])


def unpack(path):
    write(path / "config.json")
    write(path / "metadata.json")


def write_zip(path, *names, text="{}"):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, text)


def test_the_course_model_is_downloaded_and_verified(monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "download", lambda *args, **kwargs: asked.append((args, kwargs)))
    sources.find_model("course")
    [((url, path), verify)] = asked
    assert url.endswith("/chapter7-model/xception_v4_large_08_0.894.h5")
    assert path == ROOT / "downloads/xception_v4_large_08_0.894.h5"
    assert verify == {"git_blob": "df8ca9d2747dab6be89d9af3ac95040bb3c0b424"}


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("no.h5", lambda path: None, "there is no file .*: give MODEL the path"),
        ("pest.h5", lambda path: write(path.with_name("pets.h5")), "did you mean pets.h5"),
        ("m.h5", lambda path: write(path, b"not a model"), "cannot be read as a Keras model"),
        ("empty", lambda path: path.mkdir(), "has no saved_model.pb"),
        ("versions", lambda path: write(path / "2/saved_model.pb"), "set MODEL=.*/versions/2$"),
        ("m", lambda path: write(path / "a.keras"), "set MODEL=.*/m/a.keras$"),
        ("m/saved_model.pb", write, "part of a SavedModel: set MODEL=.*/m$"),
        ("m.onnx", write, "an ONNX file: .*serves Keras models"),
        ("m.pt", write, "a PyTorch file: .*serves Keras models"),
        ("m.pth", write, "a PyTorch file: .*serves Keras models"),
        ("a.zip", lambda path: write_zip(path, "archive/data.pkl"), "is a PyTorch file"),
        ("m.tflite", lambda path: write(path, b"\x20\0\0\0TFL3\0"), "is a TensorFlow Lite file"),
        ("unpacked", unpack, r".keras file: .*cd .*/unpacked && zip -r ../packed"),
        ("m.index", write, "is a checkpoint: it has only weights"),
        ("m.ckpt.data-00000-of-00001", write, "is a checkpoint"),
        ("m", lambda path: write(path.with_name("m.index")), "is a checkpoint"),
        ("folder", lambda path: write(path / "checkpoint"), "is a checkpoint"),
        ("w.h5", lambda path: h5py.File(path, "w").close(), "has only weights, .*load_weights"),
        ("broken.keras", write_broken_zip, "the file is not whole"),
        ("half.h5", write_half_h5, "the file is not whole"),
        ("other.zip", lambda path: write_zip(path, "photo.jpg"), "neither .h5 nor .keras"),
        (
            "lambda.keras",
            lambda path: write_zip(path, "config.json", "metadata.json", text=LAMBDA),
            "TRUSTED=1",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_named(tmp_path, name, make, words):
    path = tmp_path / name
    make(path)
    with pytest.raises(TutorialError, match=words) as caught:
        sources.find_model(str(path))
    assert str(path) in str(caught.value)


def test_labels_are_separated_by_commas():
    assert sources.read_labels("mine.h5", "cat, dog ,bird") == ["cat", "dog", "bird"]
    assert len(sources.read_labels("starter", "")) == 10


@pytest.mark.parametrize(
    ("model", "labels", "words"),
    [
        ("mine.h5", "", "LABELS=cat,dog"),
        ("starter", "cat,dog", "has its own labels"),
        ("mine.h5", "nowhere.txt", "no file nowhere.txt: LABELS is"),
    ],
)
def test_labels_that_are_missing_or_do_not_belong_to_the_model_are_refused(model, labels, words):
    with pytest.raises(TutorialError, match=words):
        sources.read_labels(model, labels)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.txt", "cat\ndog, small\n"),
        ("labels.json", '["cat", "dog, small"]'),
        ("class_indices.json", '{"dog, small": 1, "cat": 0}'),
        ("names.json", '{"1": "dog, small", "0": "cat"}'),
        ("indices.json", '{"dog, small": "1", "cat": "0"}'),
        ("windows.txt", "cat\r\ndog, small\r\n\r\n"),
        ("LABELS.TXT", "cat\ndog, small"),
        ("no_ending", "cat\ndog, small"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_may_be_in_a_file(tmp_path, name, text, encoding):
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert sources.read_labels("mine.h5", str(tmp_path / name)) == ["cat", "dog, small"]


def test_labels_may_be_the_only_column_of_a_table(tmp_path):
    (tmp_path / "labels.csv").write_text("cat\nsmall dog\n")
    assert sources.read_labels("mine.h5", str(tmp_path / "labels.csv")) == ["cat", "small dog"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("labels.csv", b"0,cat\n1,dog\n", "write one name on each line"),
        ("labels.txt", b"cat,dog\n", "write one name on each line"),
        ("labels.txt", "café\nthé".encode("latin-1"), "save it as UTF-8"),
        ("labels.json", b"{", "Expecting"),
        ("labels.json", b'{"a": 1}', "not 0, 1, 2"),
        ("labels.json", b"1", "not iter"),
        ("labels.json", b'{"0": ["n01", "cat"]}', "is not a name"),
        ("labels.json", b'["cat", null]', "None is not a name"),
    ],
)
def test_a_file_of_labels_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, data, words):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(TutorialError, match=rf"cannot read the labels in {path}: .*{words}"):
        sources.read_labels("mine.h5", str(path))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("cat, ,bird", "label 2 of LABELS is empty"),
        ("b,cat,b", "LABELS has b more than once"),
        ("['cat', 'dog']", "names without brackets"),
    ],
)
def test_a_label_that_is_empty_or_comes_twice_is_refused(labels, words):
    with pytest.raises(TutorialError, match=words):
        sources.read_labels("mine.h5", labels)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("starter", "starter"),
        ("course", "course"),
        ("../a/cats.h5", "cats"),
        ("dogs/", "dogs"),
        ("best_model-0.89.keras", "best_model-0-89"),
        ("my model (1).keras", "my-model-1"),
        ("starter.keras", "my-starter"),
    ],
)
def test_served_name_is_the_word_or_a_legal_name_like_the_files(model, name):
    assert sources.served_name(model) == name


def test_served_name_refuses_what_cannot_be_part_of_a_url():
    assert sources.served_name("cats.h5", "best") == "best"
    with pytest.raises(TutorialError, match="MODEL_NAME=a/b is part of URLs: use letters"):
        sources.served_name("cats.h5", "a/b")


def test_make_run_refuses_a_model_without_loading_tensorflow(tmp_path):
    code = (
        "import sys, tutorial.run as run\n"
        "try: run.convert(sys.argv[1], labels='a,b')\n"
        "except run.TutorialError: assert not {'tensorflow', 'papermill'} & sys.modules.keys()\n"
        "else: sys.exit('it was not refused')"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "no.h5"], cwd=ROOT, check=True)
