"""gateway/operations/settings: what is wrong is said before the start, and the README is right."""

import os
import subprocess
import sys

import pytest

from gateway.operations.settings import Settings, SettingsError, table


@pytest.fixture
def environment(contract_file) -> dict[str, str]:
    return {"GATEWAY_CONTRACT": str(contract_file), "PATH": "/bin"}


def test_what_is_not_set_has_a_default(environment, contract_file):
    settings = Settings.from_environment(environment)
    assert settings == Settings(contract=str(contract_file))
    assert (settings.bind, settings.admin_bind) == ("0.0.0.0:9696", "0.0.0.0:9697")


def test_text_becomes_numbers(environment):
    more = {"GATEWAY_THREADS": "6", "GATEWAY_MODEL_TIMEOUT": "2.5", "GATEWAY_LOG_LEVEL": "DEBUG"}
    settings = Settings.from_environment(environment | more)
    assert (settings.threads, settings.model_timeout, settings.log_level) == (6, 2.5, "DEBUG")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("BIND", ["0.0.0.0:80", "[::]:9696", "localhost:1"], ["", "9696", "h:", "h:0", "h:70000"]),
        ("ADMIN_BIND", ["127.0.0.1:9697"], ["127.0.0.1"]),
        ("MODEL_ADDRESS", ["model:8500", "ipv4:///10.0.0.1:8500,10.0.0.2:8500"], ["", "a b"]),
        ("MODEL_VERSION", ["", "3", "canary"], ["a b", "1;2"]),
        ("MODEL_SIGNATURE", ["", "serving_uint8"], ["a b"]),
        ("REQUEST_TIMEOUT", ["8", "0.5"], ["", "soon", "0", "-1", "nan", "inf"]),
        ("MODEL_TIMEOUT", ["3"], ["3s"]),
        ("ALLOWED_ORIGINS", ["", "http://127.0.0.1:8081/,https://b.example/"], ["http://b.example"]),
        ("THREADS", ["3", "18"], ["2", "1.5", "many", "1000"]),
        ("LOG_LEVEL", ["info", "WARNING"], ["", "loud"]),
        ("CONTRACT", [], ["nowhere.json"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_is_wanted(environment, name, good, bad):
    variable = f"GATEWAY_{name}"
    for text in good:
        Settings.from_environment(environment | {variable: text})
    for text in bad:
        with pytest.raises(SettingsError, match=f"^{variable} is {text!r}, but wants ."):
            Settings.from_environment(environment | {variable: text})


def test_an_unknown_name_is_refused_with_the_one_that_was_meant(environment):
    with pytest.raises(SettingsError, match=r"did you mean GATEWAY_THREADS\?"):
        Settings.from_environment(environment | {"GATEWAY_THREAD": "8"})
    with pytest.raises(SettingsError, match="LOG_LEVEL"):
        Settings.from_environment(environment | {"GATEWAY_XYZ": "8"})


def test_what_a_cluster_sets_beside_a_service_named_gateway_is_left_alone(environment):
    links = {
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "9696",
        "GATEWAY_SERVICE_PORT_HTTP": "9696",
        "GATEWAY_PORT": "tcp://10.0.0.1:9696",
        "GATEWAY_PORT_9696_TCP": "tcp://10.0.0.1:9696",
        "GATEWAY_PORT_9696_TCP_ADDR": "10.0.0.1",
    }
    Settings.from_environment(environment | links)


def test_the_readme_has_the_table_of_the_code(root):
    assert table() in (root / "README.md").read_text(), "gateway.operations.settings prints it"


@pytest.mark.parametrize(
    ("name", "value"),
    [("GATEWAY_THREADS", "x"), ("GATEWAY_CONTRACT", "nowhere"), ("GATEWAY_X", "1")],
)
def test_gunicorn_ends_with_one_line(root, environment, name, value):
    done = subprocess.run(
        [sys.executable, "-m", "gunicorn", "-c", "gateway/gunicorn.conf.py"],
        cwd=root,
        env=os.environ | environment | {name: value, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert done.stderr.startswith(f"gateway: {name} is ")
    assert done.stderr.count("\n") == 1
