"""checkov, which knows what goes wrong in clusters, has nothing to say about the manifests."""

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.unit.test_manifests import FOLDERS, rendered
from tutorial import kubernetes, services

HERE = Path(__file__).parents[1] / "checkov"
ENVIRONMENT = services.BUILD / "checkov"
UV = Path(sysconfig.get_path("scripts"), "uv")


@pytest.fixture(scope="module")
def checkov() -> Path:
    """Install checkov once, in a separate environment; return the command."""
    requirements = HERE / "requirements.txt"
    done = ENVIRONMENT / ".installed"
    if not done.exists() or done.read_text() != requirements.read_text():
        for command in (
            ["venv", "--clear", ENVIRONMENT],
            ["pip", "install", "--python", ENVIRONMENT, "--require-hashes", "-r", requirements],
        ):
            result = subprocess.run([UV, *command], capture_output=True, text=True)
            if result.returncode:
                pytest.skip(f"checkov cannot be installed: {result.stderr.strip()[:300]}")
        done.write_text(requirements.read_text())
    return ENVIRONMENT / "bin/checkov"


def test_checkov_finds_no_fault_with_the_manifests(checkov, tmp_path):
    choices = [*FOLDERS, *((name,) for name in kubernetes.components())]
    objects = {json.dumps(each): each for choice in choices for each in rendered(choice)}
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(objects.values()))
    command = [checkov, "--config-file", HERE / "config.yaml", "--file", file]
    options = ["--output", "json", "--skip-download", "--quiet"]
    said = subprocess.run([*command, *options], capture_output=True, text=True)
    report = json.loads(said.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 50, "it has read nothing"
    failed = report["results"]["failed_checks"]
    assert {each["check_id"]: each["check_name"] for each in failed} == {}
