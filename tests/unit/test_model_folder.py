"""A model's folder is complete or not there at all."""

import json
import shutil

import pytest

from tutorial import TutorialError
from tutorial.model_folder import next_version, publish, require, versions


@pytest.fixture
def draft(tmp_path):
    folder = tmp_path / "draft"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("graph")
    return folder


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_version_and_contract_lie_side_by_side(draft, tmp_path):
    folder = tmp_path / "models/mine"
    assert publish(draft, folder, 3, {"labels": ["ä"]}) == folder / "3"
    assert names(folder) == ["3", "contract.json"]
    assert names(folder / "3") == ["saved_model.pb", "variables"]
    assert json.loads((folder / "contract.json").read_text(encoding="utf-8"))["labels"] == ["ä"]


def test_a_version_is_replaced_and_others_stay(draft, tmp_path):
    folder = tmp_path / "mine"
    publish(draft, folder, 1, {})
    publish(draft, folder, 2, {})
    (draft / "saved_model.pb").write_text("better")
    publish(draft, folder, 2, {})
    assert (folder / "1/saved_model.pb").read_text() == "graph"
    assert (folder / "2/saved_model.pb").read_text() == "better"
    assert names(folder) == ["1", "2", "contract.json"]


@pytest.mark.parametrize("there_before", [False, True])
def test_a_copy_that_fails_changes_nothing(draft, tmp_path, monkeypatch, there_before):
    folder = tmp_path / "mine"
    if there_before:
        publish(draft, folder, 1, {"labels": ["old"]})

    def break_off(source, target):
        target.mkdir(parents=True)
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copytree", break_off)
    with pytest.raises(OSError, match="No space"):
        publish(draft, folder, 1, {"labels": ["new"]})
    if there_before:
        assert names(folder) == ["1", "contract.json"]
        assert "old" in (folder / "contract.json").read_text()
    else:
        assert not folder.exists()


def test_the_newest_version_is_a_number_not_a_word(tmp_path):
    for name in ("2", "10", "9-draft", ".unfinished-11"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [2, 10]


def test_a_missing_model_says_which_notebook_makes_it(tmp_path):
    with pytest.raises(TutorialError, match="run notebook 01-convert-model first"):
        require(tmp_path, "mine")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_next_version_is_a_new_one_when_the_content_changed(draft, tmp_path, kind):
    source, folder = tmp_path / "model.h5", tmp_path / "mine"
    content = source
    if kind == "folder":
        source.mkdir()
        content = source / "saved_model.pb"
    content.write_text("one")
    assert next_version(folder, source) == 1
    publish(draft, folder, 1, {}, source)
    assert next_version(folder, source) == 1
    content.write_text("two")
    assert next_version(folder, source) == 2
    publish(draft, folder, 2, {}, source)
    content.write_text("one")  # again: version 1 has it, but servers serve version 2
    assert next_version(folder, source) == 3
