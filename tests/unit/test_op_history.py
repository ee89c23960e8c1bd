"""New operations are distinguished from old ones."""

import json
import zipfile

from tutorial import op_history
from tutorial.op_history import added_after, main


def write_wheel(path, *operations):
    with zipfile.ZipFile(path, "w") as archive:
        calls = [f'_apply_op_helper(\n        "{name}", x=1)' for name in operations]
        archive.writestr("tensorflow/python/ops/gen_nn_ops.py", "\n".join(calls))
        archive.writestr("tensorflow/python/ops/nn.py", '_apply_op_helper("NotGenerated")')
    return path


def test_added_after_knows_what_the_course_server_lacks():
    assert added_after("2.7")["DisableCopyOnRead"] == "2.10"
    assert "DisableCopyOnRead" not in added_after("2.10")
    assert "Conv2D" not in added_after("2.7")


def test_main_adds_the_operations_of_a_new_version(tmp_path, monkeypatch):
    history = tmp_path / "op_history.json"
    history.write_text('{"Young": "2.9"}')
    monkeypatch.setattr(op_history, "HISTORY", history)
    older = write_wheel(tmp_path / "tensorflow_cpu-2.9.1-cp311.whl", "Relu", "Young", "Conv2D")
    newer = write_wheel(tmp_path / "tensorflow_cpu-2.10.0-cp311.whl", "Relu", "Young", "New")
    main(older, newer)
    assert json.loads(history.read_text()) == {"Young": "2.9", "New": "2.10"}
