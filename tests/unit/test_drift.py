"""gateway/operations: drift, reference, measure_reference."""

import json
import sys
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from gateway.contract import Contract
from gateway.errors import ContractError
from gateway.operations import measure_reference
from gateway.operations.drift import DriftMetrics, describe_picture, entropy, find_bin
from gateway.operations.health import create_admin
from gateway.operations.reference import MORE, Reference, bins
from tests.app_client import files

CONTRACT = Contract("pets", "serving_default", "unit", ("cat", "dog"), "probabilities")


def jpeg(width=80, height=60, colour="grey"):
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "JPEG")
    return file.getvalue()


def shares():
    """Shares for all bins, the first of each signal has all pictures."""
    return {
        signal: {each: float(each == names[0]) for each in names}
        for signal, names in bins(CONTRACT).items()
    }


@pytest.mark.parametrize(
    ("probabilities", "expected"), [([1, 0, 0], 0), ([1 / 3] * 3, 1), ([0.5, 0.5, 0], 0.631)]
)
def test_entropy_is_0_for_one_sure_label_and_1_for_all_alike(probabilities, expected):
    assert entropy(np.array(probabilities)) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0.3"), (0.3, "0.3"), (0.31, "0.4"), (0.951, MORE)]
)
def test_bin_is_the_first_upper_bound_that_is_not_exceeded(value, expected):
    assert find_bin("top_probability", value) == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [28, 299])
def test_picture_is_described_by_light_and_shape(dtype, size):
    pixels = np.zeros((size, size, 3), dtype)
    pixels[:, size // 2 :] = 200
    found = describe_picture(jpeg(60, 80), pixels)
    assert found["brightness"] == pytest.approx(100, abs=5)
    assert found["contrast"] == pytest.approx(100, abs=5)
    assert (found["longer_side"], found["aspect_ratio"]) == (80, pytest.approx(4 / 3))


def test_each_picture_counts_once_for_each_signal():
    registry = CollectorRegistry()
    drift = DriftMetrics(registry, CONTRACT, Reference(unsure_below=0.7, shares=shares()))
    scores = np.array([[0.85, 0.15], [0.45, 0.55]], np.float32)
    drift.observe([jpeg(), jpeg(500, 500)], np.full((2, 9, 9, 3), 90, np.uint8), scores)

    def count(signal, each):
        return registry.get_sample_value("gateway_pictures_total", {"signal": signal, "bin": each})

    for signal, names in bins(CONTRACT).items():
        assert sum(count(signal, each) for each in names) == 2
    assert [count("label", label) for label in CONTRACT.labels] == [1, 1]
    assert [count("top_probability", each) for each in ("0.6", "0.9")] == [1, 1]
    assert count("brightness", "100") == 2
    assert registry.get_sample_value("gateway_unsure_pictures_total") == 1
    expected = registry.get_sample_value(
        "gateway_expected_share", {"signal": "label", "bin": "cat"}
    )
    assert expected == 1


def test_a_busy_gateway_counts_one_of_eight_requests():
    registry, busy = CollectorRegistry(), [1]
    drift = DriftMetrics(registry, CONTRACT, Reference(), lambda: busy[0])

    def counted(requests):
        cat = {"signal": "label", "bin": "cat"}
        before = registry.get_sample_value("gateway_pictures_total", cat)
        for _ in range(requests):
            drift.observe([jpeg()], np.zeros((1, 9, 9, 3), np.uint8), np.array([[1.0, 0.0]]))
        return registry.get_sample_value("gateway_pictures_total", cat) - before

    assert counted(16) == 16
    busy[0] = 5
    assert counted(16) == 2


def test_scores_that_are_independent_have_no_entropy():
    registry = CollectorRegistry()
    contract = Contract("pets", "serving_default", "unit", ("cat", "dog"), "independent")
    drift = DriftMetrics(registry, contract, Reference())
    drift.observe([jpeg()], np.zeros((1, 9, 9, 1), np.uint8), np.array([[0.9, 0.9]], np.float32))
    names = [{"signal": "entropy", "bin": each} for each in bins(contract)["entropy"]]
    assert not any(registry.get_sample_value("gateway_pictures_total", each) for each in names)


def test_without_a_reference_no_answer_is_unsure_and_nothing_is_expected(tmp_path):
    assert Reference.beside(tmp_path / "contract.json", CONTRACT) == Reference(0, 0.0, {})
    (tmp_path / "reference.json").write_text("{}")  # as in the manifests of such a model
    assert Reference.beside(tmp_path / "contract.json", CONTRACT) == Reference(0, 0.0, {})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"shares": 3}',
        '{"picture": 3}',
        json.dumps({"shares": shares() | {"label": {"cow": 1}}}),
        json.dumps({"shares": shares(), "unsure_below": 2}),
        json.dumps({"shares": shares(), "unsure_below": "a"}),
    ],
)
def test_reference_that_cannot_be_used_is_named_with_the_way_out(tmp_path, text):
    (tmp_path / "reference.json").write_text(text)
    with pytest.raises(ContractError, match=r"reference\.json: .*measure_reference`, or delete it"):
        Reference.beside(tmp_path / "contract.json", CONTRACT)


@pytest.mark.parametrize(("unsure_below", "unsure"), [(0, False), (1, True)])
def test_classify_says_unsure_below_the_references_probability(
    make_service, contract_file, unsure_below, unsure
):
    reference = contract_file.with_name("reference.json")
    reference.write_text(json.dumps({"unsure_below": unsure_below}))
    client = make_service().test_client()

    def ask(*pictures):
        return client.post("/classify", **files(*pictures)).json

    answers = [ask(jpeg()), *ask(jpeg(), jpeg())["results"]]
    assert [answer["unsure"] for answer in answers] == [unsure] * 3


class Direct:
    """Calls the apps of a gateway by the addresses that measure_reference usually has."""

    def __init__(self, service):
        metrics = service.extensions["metrics"].registry
        admin = create_admin(service.extensions["readiness"], metrics, lambda: False)
        self.clients = {"9696": service.test_client(), "9697": admin.test_client()}

    def request(self, method, url, body=None, headers=None):
        port, path = url.removeprefix("http://127.0.0.1:").split("/", 1)
        answer = self.clients[port].open(f"/{path}", method=method, data=body, headers=headers)
        return SimpleNamespace(status=answer.status_code, data=answer.data, json=answer.get_json)


@pytest.fixture
def measure(monkeypatch, make_service, contract_file):
    """A function that measures the photos in a folder and returns what it wrote."""
    monkeypatch.setattr(measure_reference, "http", Direct(make_service()))

    def run(folder):
        monkeypatch.setattr(sys, "argv", ["", str(folder), "--contract", str(contract_file)])
        measure_reference.main()
        return json.loads(contract_file.with_name("reference.json").read_text())

    return run


@pytest.fixture
def photos(tmp_path):
    """A folder with four pictures, and one file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(1, 5):
        (folder / f"{number}.jpg").write_bytes(jpeg(100 * number, 100))
    (folder / "notes.txt").write_text("no picture")
    return folder


def test_measured_reference_is_what_the_gateway_counted(measure, photos, capsys, contract_file):
    found = measure(photos)
    assert "notes.txt is left out: " in capsys.readouterr().out
    assert found["pictures"] == 4
    sides = {each: share for each, share in found["shares"]["longer_side"].items() if share}
    assert sides == {"200": 0.5, "300": 0.25, "400": 0.25}
    contract = Contract.read(contract_file)
    assert Reference.beside(contract_file, contract).shares == found["shares"]


def test_only_right_answers_decide_what_is_unsure(measure, tmp_path):
    pictures = {"red/a": "red", "green/a": "lime", "blue/a": "blue", "blue/no label": "grey"}
    for name, colour in pictures.items():
        path = tmp_path / f"by-label/{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(colour=colour))
    found = measure(tmp_path / "by-label")
    assert (found["pictures"], found["unsure_below"]) == (4, 1)


def test_measuring_no_picture_is_an_error_and_writes_nothing(measure, tmp_path, contract_file):
    with pytest.raises(SystemExit, match=r"measure_reference: .*: no picture has an answer"):
        measure(tmp_path / "absent")
    assert not contract_file.with_name("reference.json").exists()


def test_pictures_of_another_client_are_noticed(measure, photos, monkeypatch, contract_file):
    labels = Contract.read(contract_file).labels
    counts = iter([{}, {("label", each): 7.0 for each in labels}])
    monkeypatch.setattr(measure_reference, "read_counts", lambda _: next(counts))
    with pytest.raises(SystemExit, match="another client has sent pictures, too"):
        measure(photos)


def test_measuring_with_a_contract_of_other_labels_is_an_error(measure, photos, contract_file):
    other = json.loads(contract_file.read_text()) | {"labels": ["cat", "dog", "fox"]}
    contract_file.write_text(json.dumps(other))
    with pytest.raises(SystemExit, match="the gateway serves a model with other labels"):
        measure(photos)
