"""Packages, image and generated code move together; the version is stated once, in the lock."""

import re

import pytest
import tensorflow_serving

from tutorial.op_history import _FILE
from tutorial.services import SERVING_IMAGE


def pinned(lock) -> dict[str, str]:
    """Package to version, from a requirements.txt."""
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", lock.read_text(), re.MULTILINE))


def minor(version: str) -> list[str]:
    return version.split(".")[:2]


def test_tensorflow_its_api_and_the_image_share_one_minor_version(root):
    versions = pinned(root / "requirements.txt")
    shared = minor(versions["tensorflow"])
    assert minor(versions["tensorflow-serving-api"]) == shared
    assert minor(versions["tf-keras"]) == shared
    assert minor(SERVING_IMAGE.partition(":")[2]) == shared


def test_lessons_name_the_image_that_the_code_uses(root):
    for lesson in (root / "notebooks").glob("*.ipynb"):
        for tag in re.findall(r"tensorflow/serving:(\d+\.\d+\.\d+)\b", lesson.read_text()):
            assert tag in (SERVING_IMAGE.partition(":")[2], "2.7.0"), lesson.name


@pytest.mark.parametrize("file", ["Dockerfile.model", "compose.yaml", "README.md"])
def test_whoever_names_a_tag_of_the_image_names_the_same(root, file):
    tags = set(re.findall(r"tensorflow/serving:([\d.]+)", (root / file).read_text()))
    assert tags <= {SERVING_IMAGE.partition(":")[2]}
    assert tags or file != "Dockerfile.model"


@pytest.mark.parametrize(
    "file",
    ["gateway/requirements", "gateway/requirements-stubs", "model_server/requirements"],
)
def test_images_are_locked_to_the_projects_versions(root, file):
    locked = pinned(root / f"{file}.txt")
    assert locked.items() <= pinned(root / "requirements.txt").items()
    wanted = re.findall(r"^[\w-]+", (root / f"{file}.in").read_text(), re.MULTILINE)
    assert set(wanted) <= locked.keys(), "make lock"


def test_protobuf_has_the_major_version_of_the_generated_code(root):
    [folder] = tensorflow_serving.__path__
    generated = (root / folder / "apis/predict_pb2.py").read_text()
    major = re.search(r"# Protobuf Python Version: (\d+)", generated)[1]
    assert pinned(root / "requirements.txt")["protobuf"].split(".")[0] == major


def test_the_history_of_operations_reaches_this_tensorflow(root):
    assert (
        f'"{".".join(minor(pinned(root / "requirements.txt")["tensorflow"]))}"' in _FILE.read_text()
    )


def test_every_direct_requirement_is_locked(root):
    text = (root / "requirements.in").read_text()
    names = re.findall(r"^([\w-]+)", text, re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in names} <= pinned(
        root / "requirements.txt"
    ).keys()
