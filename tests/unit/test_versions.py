"""Packages, image and generated code move together; the version is stated once, in the lock."""

import re

import pytest
import tensorflow_serving

from tutorial import ROOT
from tutorial.op_history import HISTORY
from tutorial.services import SERVING_IMAGE


def pinned(lock: str) -> dict[str, str]:
    """Package to version, from a requirements.txt."""
    text = (ROOT / lock).read_text()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))


LOCKED = pinned("requirements.txt")
TAG = SERVING_IMAGE.partition(":")[2]


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def test_tensorflow_its_packages_and_the_image_share_one_minor_version():
    names = ("tensorflow", "tensorflow-serving-api", "tf-keras")
    assert {minor(LOCKED[name]) for name in names} == {minor(TAG)}
    assert f'"{minor(TAG)}"' in HISTORY.read_text(), "the history of operations ends too early"


def test_files_name_the_image_that_the_code_uses():
    patterns = ("Dockerfile.model", "*.yaml", "README.md", "k8s/**/*.*", "notebooks/**/*.ipynb")
    tags = {
        (path.name, tag)
        for pattern in patterns
        for path in ROOT.glob(pattern)
        for tag in re.findall(r"tensorflow/serving:(\d+\.\d+\.\d+)", path.read_text())
    }
    assert ("Dockerfile.model", TAG) in tags
    assert {each for each in tags if each[1] != TAG} == {("02-inspect-saved-model.ipynb", "2.7.0")}


@pytest.mark.parametrize(
    "file",
    [
        "requirements",
        "gateway/requirements",
        "gateway/requirements-stubs",
        "model_server/requirements",
    ],
)
def test_every_requirement_is_locked_to_one_version(file):
    locked = pinned(f"{file}.txt")
    assert locked.items() <= LOCKED.items()
    wanted = re.findall(r"^[\w-]+", (ROOT / f"{file}.in").read_text(), re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in wanted} <= locked.keys(), "make lock"


def test_protobuf_has_the_major_version_of_the_generated_code():
    [folder] = tensorflow_serving.__path__
    generated = (ROOT / folder / "apis/predict_pb2.py").read_text()
    major = re.search(r"# Protobuf Python Version: (\d+)", generated)[1]
    assert LOCKED["protobuf"].split(".")[0] == major
