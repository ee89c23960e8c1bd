"""tutorial/services without servers: which image Docker runs, and what is said if it gets none."""

import os
import subprocess
import sys

import pytest

from tutorial import TutorialError, services


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A docker command that answers, and finds no image."""
    command = tmp_path / "docker"
    command.write_text('#!/bin/sh\n[ "$1" = info ] || { echo pull access denied; exit 1; }\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(services, "LOGS", tmp_path)
    return command


@pytest.mark.parametrize(
    ("processor", "chosen", "target"),
    [
        ("x86_64", "", "serving"),
        ("x86_64", "model-server", "model-server"),
        ("arm64", "", "model-server"),
        ("arm64", "openvino", "openvino"),
    ],
)
def test_model_target_is_what_the_processor_runs_unless_it_is_set(
    docker, monkeypatch, processor, chosen, target
):
    monkeypatch.setattr(services.platform, "machine", lambda: processor)
    monkeypatch.setenv("MODEL_TARGET", chosen)
    assert services.model_target() == target
    assert services.docker_runs_serving() == (target == "serving")


def test_start_compose_says_what_to_do_without_an_image(docker):
    with pytest.raises(TutorialError, match=r"(?s)pull access denied.*set MODEL_TARGET=model-ser"):
        services.start_compose("starter", 9696)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": "corp"}, "corp,127.0.0.1,localhost"),
        ({"NO_PROXY": "corp", "no_proxy": "local"}, "local,127.0.0.1,localhost"),
    ],
)
def test_servers_of_this_machine_are_asked_without_a_proxy(variables, expected):
    code = "import os, tutorial; print(os.environ['no_proxy'])"
    command = [sys.executable, "-c", code]
    others = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"}
    said = subprocess.run(command, cwd=services.ROOT, env=others | variables, capture_output=True)
    assert said.stdout.decode().strip() == expected
