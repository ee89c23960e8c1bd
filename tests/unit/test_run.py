"""tutorial/run without TensorFlow and servers: which version is made, and what is printed."""

import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import h5py
import pytest
import requests

from tutorial import ROOT, TutorialError, run
from tutorial.model_folder import publish, versions
from tutorial.processes import free_port

AWKWARD = """"cat",$5 bill,it's $(HOME),#1 ${X},back\\slash"""


@pytest.fixture
def converted(tmp_path, monkeypatch) -> list[dict]:
    """The parameters of each conversion; the notebook is replaced by its last step."""
    calls = []

    def execute(notebook: Path, parameters: dict, output: Path, **_: str) -> None:
        calls.append(parameters)
        (tmp_path / "draft").mkdir(exist_ok=True)
        folder = tmp_path / "models" / parameters["MODEL_NAME"]
        publish(tmp_path / "draft", folder, parameters["VERSION"], {}, Path(parameters["MODEL"]))

    (tmp_path / "tutorial").mkdir()
    for name in ("read_model", "convert", "verify", "model_folder"):
        (tmp_path / f"tutorial/{name}.py").write_text("code")
    (tmp_path / "gateway").mkdir()
    (tmp_path / "gateway/preprocessing.py").write_text("code")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run.services, "BUILD", tmp_path / "build")
    monkeypatch.setattr(run, "execute", execute)
    return calls


def write_model(path: Path, content: int) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = f'{{"content": {content}}}'


def test_convert_writes_the_next_version_only_if_the_content_changed(tmp_path, converted):
    path, folder = tmp_path / "pets.h5", tmp_path / "models/pets"
    write_model(path, 1)
    for _ in range(2):
        assert run.convert(str(path), labels="cat,dog") == "pets"
    assert (len(converted), versions(folder)) == (1, [1])

    run.convert(str(path), labels="cat,fox")  # other labels, the same model
    assert (len(converted), versions(folder)) == (2, [1])

    write_model(path, 2)
    run.convert(str(path), labels="cat,fox")
    assert (len(converted), versions(folder)) == (3, [1, 2])

    write_model(path, 1)  # it must be served again, and servers serve the highest
    run.convert(str(path), labels="cat,fox")
    assert (len(converted), versions(folder)) == (4, [1, 2, 3])


def test_convert_runs_again_if_its_own_code_or_that_of_the_model_changed(tmp_path, converted):
    path, layers = tmp_path / "pets.h5", tmp_path / "layers.py"
    write_model(path, 1)
    for changed in (layers, tmp_path / "gateway/preprocessing.py", layers):
        before = len(converted)
        changed.write_text(f"# change {before}")
        for _ in range(2):
            run.convert(str(path), labels="cat,dog", custom_objects=str(layers))
        assert len(converted) == before + 1


def test_convert_forgets_no_result_when_the_next_conversion_fails(tmp_path, converted, monkeypatch):
    path = tmp_path / "pets.h5"
    write_model(path, 1)
    run.convert(str(path), labels="cat,dog")
    with monkeypatch.context() as failing:
        failing.setattr(run, "execute", mock.Mock(side_effect=TutorialError("told to fail")))
        with pytest.raises(TutorialError):
            run.convert(str(path), labels="cat,dog,fox")
    run.convert(str(path), labels="cat,dog")
    assert len(converted) == 1


def test_convert_says_when_another_file_has_the_name(tmp_path, converted, capsys):
    for number, folder in enumerate(("a", "b")):
        (tmp_path / folder).mkdir()
        write_model(tmp_path / folder / "pets.h5", number)
    run.convert(str(tmp_path / "a/pets.h5"), labels="cat,dog")
    assert "another file" not in capsys.readouterr().out
    run.convert(str(tmp_path / "b/pets.h5"), labels="ant,bee", model_name="bugs")
    assert "another file" not in capsys.readouterr().out
    run.convert(str(tmp_path / "b/pets.h5"), labels="ant,bee")
    assert "models/pets was made from another file" in (said := capsys.readouterr().out)
    assert "this is version 2, which servers of pets load. To serve both, set MODEL_NAME" in said
    assert versions(tmp_path / "models/pets") == [1, 2]
    assert versions(tmp_path / "models/bugs") == [1]


def test_two_commands_at_once_convert_a_model_once(tmp_path, converted):
    write_model(tmp_path / "pets.h5", 1)
    with ThreadPoolExecutor() as pool:
        for _ in range(4):
            pool.submit(run.convert, str(tmp_path / "pets.h5"), labels="cat,dog")
    assert len(converted) == 1


def test_convert_passes_only_the_settings_that_are_set(tmp_path, converted):
    write_model(tmp_path / "pets.h5", 1)
    run.convert(str(tmp_path / "pets.h5"), labels="a,b", model_name="mine", resize="area", size="")
    [parameters] = converted
    assert (parameters["MODEL_NAME"], parameters["RESIZE"]) == ("mine", "area")
    assert "SIZE" not in parameters


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preprocessing": "exception"}, "'exception' is no preprocessing: choose tf .*, caffe"),
        ({"resize": "cubic"}, "RESIZE=cubic is not one of nearest, bilinear, bicubic, area"),
        ({"size": "big"}, "SIZE=big is not like 224 or 224x160"),
        ({"scores": "sure"}, "SCORES=sure is not one of logits, probabilities, independent"),
        ({"labels": "a,a"}, "LABELS has a more than once"),
        ({"model_name": "a/b"}, "MODEL_NAME=a/b is part of URLs"),
        ({"custom_objects": "absent.py"}, "there is no file CUSTOM_OBJECTS=.*/absent.py"),
    ],
)
def test_convert_refuses_a_mistyped_setting_before_the_notebook(
    tmp_path, converted, settings, words
):
    write_model(tmp_path / "pets.h5", 1)
    with pytest.raises(TutorialError, match=words):
        run.convert(str(tmp_path / "pets.h5"), **{"labels": "a,b"} | settings)
    assert not converted


def test_a_port_that_listens_or_is_reserved_is_named_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(run.services, "BUILD", tmp_path)
    reserved = free_port()
    run.reserve_ports(GATEWAY_PORT=reserved)  # as by a command that still converts
    with socket.create_server(("127.0.0.1", 0)) as server:
        for taken in (reserved, server.getsockname()[1]):
            words = f"^port {taken} is in use: .*MODEL_PORT={taken + 1}"
            with pytest.raises(TutorialError, match=words):
                run.reserve_ports(MODEL_PORT=taken)


def test_ports_that_cannot_be_used_together_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(run.services, "BUILD", tmp_path)
    with pytest.raises(TutorialError, match="GATEWAY_PORT and ADMIN_PORT are both 9697: give each"):
        run.reserve_ports(GATEWAY_PORT=9697, ADMIN_PORT=9697, MODEL_PORT=8500)
    with pytest.raises(TutorialError, match="MODEL_PORT=70000 is not a port: use 1 to 65535"):
        run.reserve_ports(MODEL_PORT=70000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]  # the next ports are those of other settings
        with pytest.raises(TutorialError, match=f"GATEWAY_PORT={taken + 3}$"):
            run.reserve_ports(GATEWAY_PORT=taken, ADMIN_PORT=taken + 1, MODEL_PORT=taken + 2)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "build").touch()
    monkeypatch.setattr(run.services, "BUILD", tmp_path / "build")
    monkeypatch.setattr(sys, "argv", ["run"])
    with pytest.raises(SystemExit, match=r"make run: .*/build/ports: Not a directory. Does this"):
        run.main()


def make(*arguments: str) -> subprocess.CompletedProcess:
    """Run make as if the environment was there already."""
    made = ("-o", ".venv/.installed", "-o", "build/stubs/.made")
    command = ["make", "--no-print-directory", *made, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("target", ["run", "project"])
def test_make_passes_settings_with_every_character(tmp_path, target):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s|" "$MODEL" "$LABELS" "$DEST"\n')
    fake.chmod(0o755)
    settings = ("MODEL=a b$c.keras", f"LABELS={AWKWARD}", "DEST=../b c$d")
    said = make(target, f"BIN={tmp_path}", *settings).stdout
    assert said == f"a b$c.keras|{AWKWARD}|../b c$d|"


@pytest.mark.parametrize("setting", ["MODLE=a.h5", "model=a.h5"])
def test_make_refuses_a_setting_that_it_does_not_know(setting):
    done = make("run", setting)
    assert done.returncode
    assert f"unknown {setting.split('=')[0]}: the settings are MODEL LABELS" in done.stdout


def test_the_command_takes_settings_from_the_environment(monkeypatch):
    asked = {}

    def convert(**settings):
        asked.update(settings)
        raise TutorialError("enough")

    monkeypatch.setattr(run, "convert", convert)
    monkeypatch.setattr(run, "reserve_ports", lambda **_: None)
    monkeypatch.setattr(run, "catch_signals", list)
    monkeypatch.setattr(sys, "argv", ["run"])
    monkeypatch.setenv("LABELS", AWKWARD)
    with pytest.raises(SystemExit, match="make run: enough"):
        run.main()
    assert (asked["labels"], asked["resize"]) == (AWKWARD, "")


class Answer:
    """What requests gives for an answer of the gateway."""

    def __init__(self, body: dict, status: int = 200) -> None:
        self.json, self.status_code, self.ok = lambda: body, status, status == 200


@pytest.fixture
def readyz(monkeypatch) -> list:
    """What /readyz answers next: a reason, "ready", or an exception; the last one stays."""
    answers = []

    def get(*_, **__):
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return Answer({"status": answer}, 200 if answer == "ready" else 503)

    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(run.time, "sleep", lambda _: None)
    return answers


def servers(log: Path | None = None, *, running: bool = True) -> SimpleNamespace:
    return SimpleNamespace(log=log, running=running)


def test_waiting_prints_each_reason_that_lasts_once(readyz, capsys, monkeypatch):
    monkeypatch.setattr(run, "USUAL", -1)
    away = requests.ConnectionError()
    readyz += [away, away, *["not ready: UNAVAILABLE", "not ready: NOT_FOUND"] * 2, "ready"]
    run.wait_until_ready(servers(), "")
    assert capsys.readouterr().out.splitlines() == [
        "Not ready yet: the gateway does not answer",
        "Not ready yet: the model server is still loading the model (UNAVAILABLE)",
        "Not ready yet: the model server is still loading the model (NOT_FOUND)",
    ]


@pytest.mark.parametrize(
    ("limit", "reason", "words"),
    [
        ("PATIENCE", "3 labels want one", "gateway cannot use the model: 3 labels want one, for"),
        (
            "TIMEOUT",
            "UNAVAILABLE",
            r"the model server is still loading the model \(UNAVAILABLE\), for",
        ),
    ],
)
def test_waiting_ends_with_the_reason(readyz, monkeypatch, limit, reason, words):
    monkeypatch.setattr(run, limit, -1)
    readyz.append(f"not ready: {reason}")
    with pytest.raises(TutorialError, match=f"{words} -1 seconds; run.log says more"):
        run.wait_until_ready(servers("run.log"), "")


def test_waiting_ends_with_the_server_that_ended(readyz, tmp_path):
    readyz.append(requests.ConnectionError())
    log = tmp_path / "run.log"
    log.write_text(
        "10:00:00 system    | model.1 started (pid=7)\n"
        "10:00:01 model.1   | loading\n"
        "10:00:02 model.1   | cannot start: no model\n"
        "10:00:02 gateway.1 | listening\n"
        "10:00:03 system    | model.1 stopped (rc=1)\n"
        "10:00:03 gateway.1 | ending\n"
    )
    with pytest.raises(TutorialError, match="the model server ended: cannot start: no model; see"):
        run.wait_until_ready(servers(log, running=False), "")
    log.write_text("honcho: command not found")
    with pytest.raises(TutorialError, match=f"the servers ended; {log} says why"):
        run.wait_until_ready(servers(log, running=False), "")


def test_welcome_prints_the_best_ten_of_many_labels(monkeypatch, capsys):
    scores = {f"label{number}": number / 1000 for number in range(1000)}
    monkeypatch.setattr(requests, "post", lambda *_, **__: Answer(scores))
    run.welcome(9696, ROOT / "build/logs/run-9696.log", "birds")
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if "label" in line] == [
        f"label{number}" for number in range(999, 989, -1)
    ]
    assert "and 990 more" in said
    assert "a picture of your own" in said
    assert len(said.splitlines()) <= 24
