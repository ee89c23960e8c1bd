"""What GitHub runs: valid, pinned, and on every Python that the project promises."""

import re
import subprocess
import sys

import pytest
import yaml

from tutorial.services import ROOT

FOLDER = ROOT / ".github/workflows"
WORKFLOW = FOLDER / "ci.yml"


@pytest.mark.parametrize("kind, folder", [("workflows", ""), ("issue-forms", "../ISSUE_TEMPLATE")])
def test_workflows_and_issue_forms_fit_githubs_schemas(kind, folder):
    files = [*(FOLDER / folder).glob("*.yml")]
    assert files
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    subprocess.run([*command, f"vendor.github-{kind}", *files], check=True)


@pytest.mark.parametrize("name", ["ci.yml", "pages.yml", "release.yml"])
def test_actions_are_pinned_and_may_read_only(name):
    text = (FOLDER / name).read_text()
    used = re.findall(r"uses: (\S+)", text)
    assert used and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}


def test_release_builds_what_the_dockerfiles_have():
    text = (FOLDER / "release.yml").read_text()
    for dockerfile, target in re.findall(r"--file (\S+)(?: --target (\S+))?", text):
        stages = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / dockerfile).read_text(), re.MULTILINE)
        assert not target or target in stages


def test_each_part_of_make_test_runs_on_every_python():
    jobs = yaml.safe_load(WORKFLOW.read_text())["jobs"]
    [first, beyond] = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (ROOT / "pyproject.toml").read_text()
    ).groups()
    minors = [f"3.{minor}" for minor in range(int(first), int(beyond))]
    tested, targets = set(), set()
    for job in jobs.values():
        [run] = [
            step["run"].removeprefix("make ").split() for step in job["steps"] if "run" in step
        ]
        targets |= set(run)
        if "strategy" in job:
            assert job["strategy"]["matrix"]["python"] == minors
            tested |= set(run)
    makefile = (ROOT / "Makefile").read_text()
    parts = re.search(r"^test:.*\n.* --keep-going ([a-z -]+)$", makefile, re.MULTILINE)[1].split()
    assert tested == set(parts)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
