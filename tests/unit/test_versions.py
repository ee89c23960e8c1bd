"""Packages, image and generated code move together; the version is stated once, in the lock."""

import re

import tensorflow_serving

from tutorial.op_history import _FILE
from tutorial.services import SERVING_IMAGE


def pinned(root) -> dict[str, str]:
    """Package to version, from requirements.txt."""
    text = (root / "requirements.txt").read_text()
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", text, re.MULTILINE))


def minor(version: str) -> list[str]:
    return version.split(".")[:2]


def test_tensorflow_its_api_and_the_image_share_one_minor_version(root):
    versions = pinned(root)
    shared = minor(versions["tensorflow"])
    assert minor(versions["tensorflow-serving-api"]) == shared
    assert minor(versions["tf-keras"]) == shared
    assert minor(SERVING_IMAGE.partition(":")[2]) == shared


def test_lessons_name_the_image_that_the_code_uses(root):
    for lesson in (root / "notebooks").glob("*.ipynb"):
        for tag in re.findall(r"tensorflow/serving:(\d+\.\d+\.\d+)\b", lesson.read_text()):
            assert tag in (SERVING_IMAGE.partition(":")[2], "2.7.0"), lesson.name


def test_the_image_file_names_the_same_image(root):
    [tag] = re.findall(r"tensorflow/serving:([\d.]+)", (root / "Dockerfile.model").read_text())
    assert tag == SERVING_IMAGE.partition(":")[2]


def test_protobuf_has_the_major_version_of_the_generated_code(root):
    [folder] = tensorflow_serving.__path__
    generated = (root / folder / "apis/predict_pb2.py").read_text()
    major = re.search(r"# Protobuf Python Version: (\d+)", generated)[1]
    assert pinned(root)["protobuf"].split(".")[0] == major


def test_the_history_of_operations_reaches_this_tensorflow(root):
    assert f'"{".".join(minor(pinned(root)["tensorflow"]))}"' in _FILE.read_text()


def test_every_direct_requirement_is_locked(root):
    text = (root / "requirements.in").read_text()
    names = re.findall(r"^([\w-]+)", text, re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in names} <= pinned(root).keys()
