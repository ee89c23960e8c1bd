"""A generated project is whole, has its own names, and says nothing of the lessons."""

import json
import re
import subprocess
import sys
from importlib.metadata import requires

import pytest
import yaml
from packaging.requirements import Requirement

from tutorial import ROOT, project

CONTRACT = {
    "model_name": "pets",
    "signature_name": "serving_default",
    "preprocessing": "unit",
    "labels": ["cat", "dog"],
    "scores": "logits",
    "resize": "bilinear",
}
FOREIGN = re.compile(
    r"notebook|lesson|tutorial|clothing|starter|\bcourse|make contract|kind-test|benchmark|docs/",
    re.IGNORECASE,
)


def write_model(folder):
    """Write a model that no server could load, in two versions."""
    for version in ("9", "10"):
        (folder / version).mkdir(parents=True)
        (folder / version / "saved_model.pb").write_bytes(b"\xff")
    (folder / "contract.json").write_text(json.dumps(CONTRACT))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("project")
    project.write(base / "pet-shop", write_model(base / "pets"))
    return base / "pet-shop"


@pytest.fixture(scope="module")
def texts(folder):
    """The text of each file but the model's, by its path."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != "10"
    }


def test_project_says_nothing_of_this_repository(texts):
    found = {path: FOREIGN.findall(text) for path, text in texts.items()}
    assert {path: words for path, words in found.items() if words} == {}


def test_each_edit_finds_its_text():
    everything = "\n".join(project.texts().values())
    assert [pattern for pattern in project.EDITS if not re.search(pattern, everything)] == []


def test_project_has_its_own_names(texts):
    assert yaml.safe_load(texts["compose.yaml"])["name"] == "pet-shop"
    assert "\nnamespace: pet-shop\n" in texts["k8s/kustomization.yaml"]
    assert "image: pet-shop-gateway\n" in texts["k8s/base/gateway.yaml"]
    assert json.loads(texts["k8s/components/monitoring/dashboard.json"])["title"] == "pet-shop"
    assert 'USER_AGENT = "pet-shop/' in texts["gateway/__init__.py"]
    assert "ARG MODEL_NAME=pets\n" in texts["Dockerfile.model"]


def test_project_has_the_newest_version_and_the_contract(folder, texts):
    names = {path.name for path in (folder / "models/pets").iterdir()}
    assert names == {"10", "contract.json", "reference.json"}
    assert texts["k8s/base/reference.json"] == "{}\n"
    assert json.loads(texts["models/pets/contract.json"]) == CONTRACT
    assert json.loads(texts["k8s/base/contract.json"]) == CONTRACT


def test_links_lead_to_files(folder, texts):
    links = [
        (folder / path).parent / link
        for path, text in texts.items()
        for link in re.findall(r"\]\(((?!http|#)[^)#]+)", text)
        if path.endswith(".md")
    ]
    assert len(links) > 20
    assert [link for link in links if not link.exists()] == []


def test_images_find_what_they_copy(folder, texts):
    sent = re.findall(r"(?m)^!(.+)", texts[".dockerignore"])
    for name in ("Dockerfile.gateway", "Dockerfile.model"):
        text = texts[name].replace("${MODEL_NAME}", "pets")
        for paths in re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text):
            for path in paths.split():
                assert (folder / path).exists() and path.split("/")[0] in sent, path


def test_requirements_have_all_that_the_packages_and_images_need(texts):
    def pins(file):
        return set(re.findall(r"(?m)^[\w.-]+==[^\s;]+", texts[file]))

    names = {pin.partition("==")[0] for pin in pins("requirements.txt")}
    for name in names - {"colorama"}:  # which is for Windows
        needed = [Requirement(text) for text in requires(name) or ()]
        needed = [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
        assert {each.name.lower().replace("_", "-") for each in needed} <= names, name
    for tier in ("gateway", "model_server"):
        assert pins(f"{tier}/requirements.txt") <= pins("requirements.txt")
    wanted = re.findall(r"(?m)^[\w-]+", texts["requirements.in"])
    assert {"pytest", "tensorflow", "flask"} <= set(wanted) <= names
    assert "jupyterlab" not in names and "jupyter" not in texts["requirements.txt"]


def test_workflow_uses_the_actions_of_this_repository(folder, texts):
    file = ".github/workflows/test.yml"
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    subprocess.run([*command, "vendor.github-workflows", folder / file], check=True)
    used = set(re.findall(r"uses: (.+)", texts[file]))
    assert used and used <= set(
        re.findall(r"uses: (.+)", (ROOT / file).with_name("ci.yml").read_text())
    )


def test_make_lists_its_targets(folder):
    command = ["make", "--no-print-directory", "help"]  # `make test` would add lines
    said = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
    assert [line.split()[0] for line in said.splitlines()] == [
        *("run", "test", "images", "lock", "help", "clean")
    ]


@pytest.mark.parametrize(
    ("dest", "words"),
    [
        ("", "DEST is missing: .* such as DEST=../my-service"),
        ("Pets", "DEST=.*Pets: 'Pets' cannot be a name in Kubernetes. Use .* such as my-service"),
        ("my_service", "'my_service' cannot be a name"),
        ("pets-", "'pets-' cannot be a name"),
        ("p" * 41, "cannot be a name"),
        ("file", "DEST=.*file exists already"),
        ("full", "DEST=.*full exists already: choose a new or an empty folder"),
        ("no/pets", "there is no folder .*/no$"),
    ],
)
def test_destination_that_cannot_be_used_is_one_line(tmp_path, monkeypatch, dest, words):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/.git").touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(project, "convert", lambda **_: pytest.fail("converted"))
    monkeypatch.setattr(sys, "argv", ["project"])
    monkeypatch.setenv("DEST", dest and str(tmp_path / dest))
    with pytest.raises(SystemExit, match=f"^make project: .*{words}"):
        project.main()
    assert sorted(tmp_path.rglob("*")) == before


def test_project_is_written_into_an_empty_folder(tmp_path, monkeypatch, capsys):
    dest = tmp_path / "a b" / "pet-shop"
    dest.mkdir(parents=True)
    model = write_model(tmp_path / "pets")
    asked = {}
    monkeypatch.setattr(project, "convert", lambda **settings: asked.update(settings) or str(model))
    monkeypatch.setattr(sys, "argv", ["project"])
    for name, value in {"DEST": str(dest), "LABELS": "a b$,c", "SIZE": "32"}.items():
        monkeypatch.setenv(name, value)
    project.main()
    assert (asked["labels"], asked["size"], asked["resize"]) == ("a b$,c", "32", "")
    assert (dest / "README.md").read_text().startswith("# pet-shop\n")
    assert f"cd '{dest}'\n" in capsys.readouterr().out
    assert [path.name for path in dest.parent.iterdir()] == ["pet-shop"]
