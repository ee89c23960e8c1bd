"""Young operations are told from old ones."""

import zipfile

from tutorial.op_history import added_after, first_versions, operations


def test_what_today_exports_is_too_young_for_the_course_server():
    assert added_after("2.7")["DisableCopyOnRead"] == "2.10"
    assert "DisableCopyOnRead" not in added_after("2.10")
    assert "Conv2D" not in added_after("2.7")


def test_versions_compare_as_numbers():
    releases = [("2.10", {"A", "B", "C"}), ("2.7", {"A"}), ("2.9", {"A", "B"})]
    assert first_versions(releases) == {"B": "2.9", "C": "2.10"}


def test_operations_are_read_off_a_wheel(tmp_path):
    wheel = tmp_path / "tensorflow-2.7.0.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "tensorflow/python/ops/gen_nn_ops.py",
            '_op_def_library._apply_op_helper(\n        "Relu", x=1)\n_apply_op_helper("Conv2D")',
        )
        archive.writestr("tensorflow/python/ops/nn.py", '_apply_op_helper("NotGenerated")')
    assert operations(wheel) == {"Relu", "Conv2D"}
