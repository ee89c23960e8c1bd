"""A model's folder holds complete versions only."""

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


def test_publish_writes_the_contract_beside_the_version(draft, tmp_path):
    folder = tmp_path / "models/mine"
    assert publish(draft, folder, 3, {"labels": ["ä"]}) == folder / "3"
    assert names(folder) == ["3", "contract.json"]
    assert names(folder / "3") == ["saved_model.pb", "variables"]
    assert json.loads((folder / "contract.json").read_text(encoding="utf-8"))["labels"] == ["ä"]


def test_publish_takes_the_reference_that_is_beside_the_models_file(draft, tmp_path):
    source = tmp_path / "mine.h5"
    source.write_text("weights")
    (tmp_path / "mine.reference.json").write_text('{"pictures": 3}')
    folder = publish(draft, tmp_path / "models/mine", 1, {}, source).parent
    assert names(folder) == ["1", "contract.json", "reference.json"]
    assert (folder / "reference.json").read_text() == '{"pictures": 3}'


def test_publish_replaces_one_version_and_keeps_others(draft, tmp_path):
    folder = tmp_path / "mine"
    publish(draft, folder, 1, {})
    publish(draft, folder, 2, {})
    (draft / "saved_model.pb").write_text("better")
    publish(draft, folder, 2, {})
    assert (folder / "1/saved_model.pb").read_text() == "graph"
    assert (folder / "2/saved_model.pb").read_text() == "better"
    assert names(folder) == ["1", "2", "contract.json"]


def test_publish_changes_nothing_when_the_copy_fails(draft, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    publish(draft, folder, 1, {"labels": ["old"]})

    def break_off(source, target):
        target.mkdir(parents=True)
        raise OSError("No space left on device")

    monkeypatch.setattr(shutil, "copytree", break_off)
    with pytest.raises(OSError, match="No space"):
        publish(draft, folder, 1, {"labels": ["new"]})
    assert names(folder) == ["1", "contract.json"]
    assert "old" in (folder / "contract.json").read_text()


def test_versions_are_numbers_in_rising_order(tmp_path):
    for name in ("2", "10", "9-draft", ".unfinished-11"):
        (tmp_path / name).mkdir()
    assert versions(tmp_path) == [2, 10]


def test_require_names_the_notebook_that_makes_a_missing_model(tmp_path):
    with pytest.raises(TutorialError, match="run notebook 01-convert-model first"):
        require(tmp_path, "mine")


def test_next_version_is_a_new_one_when_the_content_changed(draft, tmp_path):
    source, folder = tmp_path / "saved", tmp_path / "mine"
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
