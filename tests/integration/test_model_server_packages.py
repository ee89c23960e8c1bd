"""The model server's own list of packages: pinned as in the project's, and enough to run it."""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "model_server" / "requirements.txt"
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.M)


def pins(path):
    return dict(PIN.findall(path.read_text()))


def test_versions_are_the_projects():
    listed = pins(LISTED)
    assert {"tensorflow", "tensorflow-serving-api", "grpcio", "waitress"} <= set(listed)
    assert listed.items() <= pins(ROOT / "requirements.txt").items()
    wanted = re.findall(r"^[a-z0-9-]+", (LISTED.with_suffix(".in")).read_text(), re.M)
    assert sorted(wanted) == sorted(listed), "make lock"


def test_server_needs_no_other_package(tmp_path):
    listed = pins(LISTED)
    unlisted = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in listed for owner in owners)
        and module != "model_server"
    ]
    assert "keras" in unlisted  # or the test shows nothing
    code = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv.pop().split(',')));"
        "runpy.run_module('model_server', run_name='__main__', alter_sys=True)"
    )
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            "--port=0",
            f"--model_base_path={tmp_path}",
            f"--model_config_file={tmp_path / 'none'}",
            ",".join(unlisted),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()  # all is imported, and then there is nothing to serve
    assert "none; No such file or directory" in line
