"""The model server alone: its list of packages, and its image."""

import importlib.metadata
import json
import re
import subprocess
import sys

from tutorial.processes import free_port
from tutorial.services import ROOT

LISTED = ROOT / "model_server" / "requirements.txt"


def test_server_needs_no_other_package(tmp_path):
    listed = set(re.findall(r"^([a-z0-9-]+)==", LISTED.read_text(), re.M))
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
    flags = [
        "--port=0",
        f"--rest_api_port={free_port()}",  # or its packages are not imported
        f"--model_base_path={tmp_path}",
        f"--model_config_file={tmp_path / 'none'}",
    ]
    ended = subprocess.run(
        [sys.executable, "-c", code, *flags, ",".join([*unlisted, "gateway", "tutorial"])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()  # all is imported, and then there is nothing to serve
    assert f"{tmp_path / 'none'} cannot be read" in line


def test_image_serves_with_tensorflows_version_by_default():
    dockerfile = (ROOT / "Dockerfile.model").read_text()
    stages = re.findall(r"^FROM (\S+) AS (\S+)", dockerfile, re.M)
    assert stages[-1] == ("${SERVING_IMAGE}", "serving")


def test_image_starts_the_model_server_with_flags_that_it_knows():
    from model_server.flags import parse

    dockerfile = (ROOT / "Dockerfile.model").read_text()
    command = json.loads(re.search(r"^ENTRYPOINT (.*)$", dockerfile, re.M)[1])
    variables = {"MODEL_NAME": "starter", "MODEL_BASE_PATH": "/models"}
    shown = [*command[:2], command[2].replace("exec /opt/venv/bin/python", "printf '%s\n'")]
    extra = ["--rest_api_num_threads=3", "--model_base_path=/two words"]
    ran = subprocess.run(
        [*shown, command[3], *extra], env=variables, capture_output=True, text=True, check=True
    )
    module, flags = ran.stdout.splitlines()[:2], parse(ran.stdout.splitlines()[2:])
    assert module == ["-m", "model_server"]
    assert (flags.port, flags.rest_api_port, flags.model_name) == (8500, 8501, "starter")
    assert (flags.rest_api_num_threads, str(flags.model_base_path)) == (3, "/two words")
