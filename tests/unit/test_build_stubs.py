"""The stubs are the wheels' own files, with nothing but protobuf around them."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from tutorial.build_stubs import build, needed_files

PACKAGES = Path(sysconfig.get_path("purelib"))


def test_build_copies_the_files_of_the_pinned_wheels(tmp_path):
    number = build(PACKAGES, tmp_path)
    copies = [path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py")]
    assert number == len(copies) > 30
    for name in copies:
        assert (tmp_path / name).read_bytes() == (PACKAGES / name).read_bytes()


def test_build_removes_what_was_there_before(tmp_path):
    (tmp_path / "stale_pb2.py").touch()
    build(PACKAGES, tmp_path)
    assert not (tmp_path / "stale_pb2.py").exists()


def test_build_from_wheels_needs_nothing_installed(tmp_path):
    (tmp_path / "wheels").mkdir()
    for package in ("tensorflow", "tensorflow_serving"):
        with zipfile.ZipFile(tmp_path / "wheels" / f"{package}.whl", "w") as wheel:
            wheel.writestr(f"{package}/__init__.py", "raise ImportError")
            for name in needed_files(PACKAGES):
                if name.startswith(f"{package}/"):
                    wheel.write(PACKAGES / name, name)
    stubs = tmp_path / "stubs"
    command = [sys.executable, "-m", "tutorial.build_stubs", stubs, "--wheels", tmp_path / "wheels"]
    said = subprocess.check_output(command, text=True)
    assert said == f"{len(needed_files(PACKAGES))} generated files in {stubs}\n"
    assert needed_files(stubs) == needed_files(PACKAGES)
    assert (stubs / "tensorflow/__init__.py").read_text() == ""
