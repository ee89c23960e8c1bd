"""gateway/operations/settings: a wrong setting stops the start, and docs/gateway.md is right."""

import pytest

from gateway.operations.settings import SettingsError, defaults, read_settings, table


@pytest.fixture
def environment(contract_file) -> dict[str, str]:
    return {"GATEWAY_CONTRACT": str(contract_file), "PATH": "/bin"}


def test_read_settings_turns_text_into_numbers_and_fills_in_defaults(environment, contract_file):
    given = {"GATEWAY_THREADS": "6", "GATEWAY_MODEL_TIMEOUT": "2.5"}
    wanted = {"CONTRACT": str(contract_file), "THREADS": 6, "MODEL_TIMEOUT": 2.5}
    assert read_settings(environment | given) == defaults() | wanted


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("BIND", ["0.0.0.0:80", "[::]:9696", "localhost:1"], ["", "9696", "h:", "h:0", "h:70000"]),
        ("ADMIN_BIND", ["127.0.0.1:9697"], ["127.0.0.1"]),
        ("MODEL_ADDRESS", ["model:8500", "ipv4:///10.0.0.1:8500,10.0.0.2:8500"], ["", "a b", "http://m:1"]),
        ("MODEL_VERSION", ["", "3", "canary"], ["a b", "1;2"]),
        ("REQUEST_TIMEOUT", ["8", "0.5"], ["", "soon", "0", "-1", "nan", "inf"]),
        ("MODEL_TIMEOUT", ["3"], ["3s"]),
        ("MODEL_WAIT", ["0", "50"], ["-1", "nan", "inf"]),
        ("ALLOWED_ORIGINS", ["", "http://127.0.0.1:8081/,https://b.example/"], ["http://b.example"]),
        ("USER_AGENT", ["me/1 (me@example.com)"], ["", "ü"]),
        ("PROXIES", ["0", "2"], ["-1", "one"]),
        ("THREADS", ["3", "18"], ["2", "1.5", "many", "1000"]),
        ("LOG_LEVEL", ["info", "WARNING"], ["", "loud"]),
        ("CONTRACT", [], ["nowhere.json"]),
    ],
)  # fmt: skip
def test_read_settings_names_a_wrong_value_and_what_it_wants(environment, name, good, bad):
    variable = f"GATEWAY_{name}"
    for text in good:
        read_settings(environment | {variable: text})
    for text in bad:
        with pytest.raises(SettingsError, match=f"^{variable} is {text!r}, but wants ."):
            read_settings(environment | {variable: text})


def test_read_settings_refuses_an_unknown_name_and_suggests_one(environment):
    with pytest.raises(SettingsError, match=r"did you mean GATEWAY_THREADS\?"):
        read_settings(environment | {"GATEWAY_THREAD": "8"})
    with pytest.raises(SettingsError, match="LOG_LEVEL"):
        read_settings(environment | {"GATEWAY_XYZ": "8"})


def test_read_settings_ignores_what_a_cluster_sets(environment):
    links = {
        "GATEWAY_SERVICE_HOST": "10.0.0.1",
        "GATEWAY_SERVICE_PORT": "9696",
        "GATEWAY_SERVICE_PORT_HTTP": "9696",
        "GATEWAY_PORT": "tcp://10.0.0.1:9696",
        "GATEWAY_PORT_9696_TCP": "tcp://10.0.0.1:9696",
        "GATEWAY_PORT_9696_TCP_ADDR": "10.0.0.1",
    }
    read_settings(environment | links)


def test_table_of_settings_is_in_the_reference(root):
    reference = (root / "docs/gateway.md").read_text()
    assert table() in reference, "python -m gateway.operations.settings prints it"
