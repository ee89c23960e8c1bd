"""Everything under k8s/ renders, is valid, and fits together: in every overlay and combination."""

import functools
import itertools
import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from gateway.operations.settings import read_settings
from tutorial import TutorialError, kubernetes, services
from tutorial.kubernetes import K8S, find

# Upstream maintains the last three; 1.34, the oldest that README.md promises, is still to be met in
# clouds.
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
WORKLOADS = ("gateway", "model")
MENU = (
    (),
    *((name,) for name in kubernetes.components()),
    *itertools.combinations(kubernetes.components(), 2),
    tuple(kubernetes.components()),
)
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
NAME, INSTANCE = "app.kubernetes.io/name", "app.kubernetes.io/instance"

pytestmark = pytest.mark.skipif(
    not kubernetes.kubectl(), reason="there is no kubectl, here or on PATH, to render with"
)


@functools.cache
def rendered(choice):
    """The objects of "k8s" itself, of an overlay, or of the base with some components."""
    if isinstance(choice, str):
        return kubernetes.render(K8S / choice)
    return kubernetes.render_with(*choice)


def named(choice):
    return choice if isinstance(choice, str) else "+".join(choice) or "base"


FOLDERS = ("", *(f"overlays/{name}" for name in OVERLAYS))
every_choice = pytest.mark.parametrize("choice", [*FOLDERS, *MENU], ids=named)


def of_kind(choice, *kinds):
    return [each for each in rendered(choice) if each["kind"] in kinds]


def pods(choice):
    """Deployment's name -> (labels of its pods, their spec)."""
    return {
        each["metadata"]["name"]: (
            each["spec"]["template"]["metadata"]["labels"],
            each["spec"]["template"]["spec"],
        )
        for each in of_kind(choice, "Deployment")
    }


def container(spec):
    [only] = spec["containers"]
    return only


def port_names(spec):
    return {port["name"] for port in container(spec)["ports"]}


def selects(selector, labels):
    return selector.items() <= labels.items()


# Schemas

POD_MONITOR = {  # what of the operator's own schema is used here; Kubernetes does not know the kind
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "monitoring.coreos.com/v1"},
        "spec": {
            "type": "object",
            "required": ["selector", "podMetricsEndpoints"],
            "additionalProperties": False,
            "properties": {
                "selector": {"type": "object", "required": ["matchLabels"]},
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "properties": {
                            "port": {"type": "string"},
                            "path": {"type": "string"},
                            "interval": {"type": "string", "pattern": r"^\d+s$"},
                        },
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def schemas_read_once():
    """kubernetes-validate reads megabytes of JSON for each object: let it keep them."""
    with pytest.MonkeyPatch.context() as patch:
        utils = kubernetes_validate.utils
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_valid(version, schemas_read_once):
    objects = {
        json.dumps(each, sort_keys=True): each
        for choice in [*FOLDERS, *MENU]
        for each in rendered(choice)
    }
    assert len(objects) > 30
    for each in objects.values():
        if each["kind"] == "PodMonitor":
            jsonschema.validate(each, POD_MONITOR)
        else:
            assert kubernetes_validate.validate(each, version, strict=True) == version


def test_a_misspelt_field_would_be_found(schemas_read_once):
    deployment = find(rendered(()), "Deployment", "model")
    wrong = json.loads(json.dumps(deployment).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


# What refers to what


@every_choice
def test_names_and_namespaces(choice):
    keys = [(each["kind"], each["metadata"]["name"]) for each in rendered(choice)]
    assert len(keys) == len(set(keys))
    for each in rendered(choice):
        if each["kind"] == "Namespace":
            assert each["metadata"]["name"] == "clothing"
        else:
            assert each["metadata"]["namespace"] == "clothing"


@every_choice
def test_every_selector_finds_its_pods_and_only_those(choice):
    found = pods(choice)
    for each in of_kind(choice, "Deployment"):
        selector = each["spec"]["selector"]["matchLabels"]
        mine = [name for name, (labels, _) in found.items() if selects(selector, labels)]
        assert mine == [each["metadata"]["name"]]
    for each in rendered(choice):
        spec, name = each.get("spec", {}), each["metadata"]["name"]
        selector = {
            "Service": lambda spec: spec["selector"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
            "PodMonitor": lambda spec: spec["selector"]["matchLabels"],
        }.get(each["kind"])
        if selector:
            chosen = {n for n, (labels, _) in found.items() if selects(selector(spec), labels)}
            workload = name.removesuffix("-canary")
            assert chosen == {n for n in found if n == name or (n == f"{workload}-canary")}, name


@every_choice
def test_every_port_has_its_name_in_the_pods(choice):
    found = {labels[NAME]: spec for labels, spec in pods(choice).values()}
    for each in of_kind(choice, "Service", "NetworkPolicy", "PodMonitor"):
        spec = found[each["metadata"]["name"].removesuffix("-canary")]
        match each["kind"]:
            case "Service":
                numbers = {p["name"]: p["containerPort"] for p in container(spec)["ports"]}
                for port in each["spec"]["ports"]:
                    assert port["name"] == port["targetPort"]
                    assert port["port"] == numbers[port["targetPort"]]
            case "PodMonitor":
                ports = {port["port"] for port in each["spec"]["podMetricsEndpoints"]}
                assert ports <= port_names(spec)
            case "NetworkPolicy":
                ports = {port["port"] for rule in each["spec"]["ingress"] for port in rule["ports"]}
                assert ports <= port_names(spec)


@every_choice
def test_probes_ask_ports_that_there_are(choice):
    for _, spec in pods(choice).values():
        numbers = {port["name"]: port["containerPort"] for port in container(spec)["ports"]}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            match container(spec)[probe]:
                case {"httpGet": {"port": port}}:
                    assert port in {"admin", "rest"} & numbers.keys()
                case {"grpc": {"port": number}}:  # Kubernetes knows no names here
                    assert number == numbers["grpc"]
                case other:
                    pytest.fail(f"{probe}: {other}")


@every_choice
def test_gateways_find_the_model_behind_a_headless_service(choice):
    service = find(rendered(choice), "Service", "model")
    assert service["spec"]["clusterIP"] == "None"
    [port] = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    for labels, spec in pods(choice).values():
        if labels[NAME] == "gateway":
            environment = {each["name"]: each["value"] for each in container(spec)["env"]}
            assert environment["GATEWAY_MODEL_ADDRESS"] == f"model:{port}"


@every_choice
def test_volumes_are_there_and_gateways_mount_the_contract(choice):
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(choice, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(choice, "PersistentVolumeClaim")}
    for labels, spec in pods(choice).values():
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in container(spec)["volumeMounts"]}
        assert volumes.keys() == mounts.keys()
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} <= maps.keys()
        used = {
            volume["persistentVolumeClaim"]["claimName"]
            for volume in volumes.values()
            if "persistentVolumeClaim" in volume
        }
        assert used <= claims
        if labels[NAME] == "gateway":
            [path] = [e["value"] for e in container(spec)["env"] if e["name"] == "GATEWAY_CONTRACT"]
            [file] = maps[volumes["contract"]["configMap"]["name"]]
            assert path == f"{mounts['contract']}/{file}"


@every_choice
def test_who_is_scaled_names_no_number_of_its_own(choice):
    deployments = {each["metadata"]["name"]: each for each in of_kind(choice, "Deployment")}
    for each in of_kind(choice, "HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]["name"]
        assert "replicas" not in deployments.pop(target)["spec"]
    assert all("replicas" in each["spec"] for each in deployments.values())


@every_choice
def test_only_the_namespace_label_stands_above_the_pods_own_restrictions(choice):
    """The restricted Pod Security standard, on the fields that are used here."""
    labels = find(rendered(choice), "Namespace", "clothing")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for _, spec in pods(choice).values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(spec)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_choice
def test_requests_and_limits_are_set_and_threads_follow_the_limit(choice):
    for labels, spec in pods(choice).values():
        resources = container(spec)["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys() & resources["limits"].keys()
        if labels[NAME] == "model":
            arguments = container(spec)["args"]
            if "openvino" in choice:
                [config] = [a for a in arguments if a.startswith("--plugin_config=")]
                threads = json.loads(config.partition("=")[2])["INFERENCE_NUM_THREADS"]
                assert threads == "$(CPU_LIMIT)"
            else:
                for flag in ("intra", "inter"):
                    assert f"--tensorflow_{flag}_op_parallelism=$(CPU_LIMIT)" in arguments
            [limit] = [e["valueFrom"] for e in container(spec)["env"] if e["name"] == "CPU_LIMIT"]
            assert limit == {"resourceFieldRef": {"resource": "limits.cpu"}}


# Ending


def seconds_before_term(spec):
    return container(spec)["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_a_gateway_has_time_to_finish():
    text = (services.ROOT / "gateway/gunicorn.conf.py").read_text()
    graceful = int(re.search(r"^graceful_timeout = (\d+)$", text, re.MULTILINE)[1])
    _, spec = pods(())["gateway"]
    assert seconds_before_term(spec) + graceful < spec["terminationGracePeriodSeconds"]


def test_gateways_have_left_a_model_before_it_is_killed():
    _, spec = pods(())["model"]
    [text] = [a for a in container(spec)["args"] if a.startswith("--grpc_channel_arguments=")]
    arguments = dict(item.split("=") for item in text.partition("=")[2].split(","))
    age = int(arguments["grpc.max_connection_age_ms"])  # gRPC adds up to a tenth
    grace = int(arguments["grpc.max_connection_age_grace_ms"])
    assert (1.1 * age + grace) / 1000 < seconds_before_term(spec)
    assert seconds_before_term(spec) < spec["terminationGracePeriodSeconds"]


# The network


def test_the_gateway_reaches_no_private_address():
    import ipaddress

    policy = find(rendered(("network-policy",)), "NetworkPolicy", "gateway")
    blocks = [
        to["ipBlock"]
        for rule in policy["spec"]["egress"]
        if {port["port"] for port in rule["ports"]} == {80, 443}
        for to in rule["to"]
    ]

    def allowed(address):
        address = ipaddress.ip_address(address)
        inside = lambda cidr: address in ipaddress.ip_network(cidr)  # noqa: E731
        return any(inside(b["cidr"]) and not any(map(inside, b["except"])) for b in blocks)

    private = "10.1.2.3 172.16.0.1 172.31.255.1 192.168.1.1 169.254.169.254 100.64.0.1 127.0.0.1"
    private += " 0.0.0.0 168.63.129.16 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255"
    private += " ::1 fd00::1 fe80::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: ff02::1"
    assert [address for address in private.split() if allowed(address)] == []
    public = "1.1.1.1 8.8.8.8 172.32.0.1 193.0.0.1 2606:4700::1111 2a00:1450::1"
    assert all(map(allowed, public.split()))


def test_the_model_talks_to_nobody():
    policy = find(rendered(("network-policy",)), "NetworkPolicy", "model")["spec"]
    assert policy["egress"] == [] and "Egress" in policy["policyTypes"]
    callers = {
        port["port"]: json.dumps(rule["from"])
        for rule in policy["ingress"]
        for port in rule["ports"]
    }
    assert callers.keys() == {"grpc", "rest"}
    assert '"gateway"' in callers["grpc"] and '"monitoring"' in callers["rest"]


# Versions of the model


def test_the_canary_is_the_same_gateway_asking_for_another_label():
    stable, canary = (pods(("canary",))[name][1] for name in ("gateway", "gateway-canary"))

    def asked_for(spec):
        return {each["name"]: each["value"] for each in container(spec)["env"]}.pop(
            "GATEWAY_MODEL_VERSION"
        )

    assert (asked_for(stable), asked_for(canary)) == ("stable", "canary")
    same = (
        json.dumps(canary)
        .replace("contract-canary-", "contract-")
        .replace('"value": "canary"', '"value": "stable"')
    )
    spread = json.loads(same)
    for constraint in spread["topologySpreadConstraints"]:
        constraint["labelSelector"]["matchLabels"].pop(INSTANCE)
    assert spread == stable


def test_the_canarys_configuration_names_the_contracts_model():
    name = json.loads(kubernetes.CONTRACT.read_text())["model_name"]
    text = kubernetes.MODELS_CONFIG.read_text()
    assert f'name: "{name}"' in text and f'base_path: "/models/{name}"' in text


def test_another_models_contract_is_taken_in(tmp_path, monkeypatch):
    for variable in ("CONTRACT", "MODELS_CONFIG"):
        copy = tmp_path / getattr(kubernetes, variable).name
        copy.write_text(getattr(kubernetes, variable).read_text())
        monkeypatch.setattr(kubernetes, variable, copy)
    folder = tmp_path / "animals"
    folder.mkdir()
    (folder / "contract.json").write_text('{"model_name": "animals"}\n')
    kubernetes.take_contract(folder)
    test_the_canarys_configuration_names_the_contracts_model()
    assert kubernetes.CONTRACT.read_text() == '{"model_name": "animals"}\n'


# The files themselves: the menu, the tags, the order of keys


def test_the_menu_lists_every_component_and_each_says_when_one_wants_it():
    menu, readme = ((K8S / name).read_text() for name in ("kustomization.yaml", "README.md"))
    for name in kubernetes.components():
        assert f"#  - components/{name} " in menu
        assert f"(components/{name}/README.md)" in readme
        assert "**You want it**" in (K8S / "components" / name / "README.md").read_text()
    for name in OVERLAYS:
        assert f"(overlays/{name}/README.md)" in readme


def test_one_place_names_the_images_tags():
    tags = {
        image["name"]: image["newTag"]
        for image in yaml.safe_load((K8S / "base/kustomization.yaml").read_text())["images"]
    }
    assert tags.keys() == {"clothing-gateway", "clothing-model"}
    for path in K8S.rglob("*.y*ml"):
        if path != K8S / "base/kustomization.yaml":
            assert "newTag" not in path.read_text(), path
    for path in K8S.rglob("*.md"):
        for name, tag in re.findall(
            r"(clothing-(?:gateway|model))[\w-]*:([\w.]+)", path.read_text()
        ):
            assert tag == tags[name], path


# The images, and the other places where they run


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((services.ROOT / "compose.yaml").read_text())


def last_stage(tier):
    """The final stage of a tier's Dockerfile: what is started where nobody chooses."""
    return (services.ROOT / f"Dockerfile.{tier}").read_text().split("\nFROM ")[-1]


@pytest.mark.parametrize("tier", WORKLOADS)
def test_image_and_pod_agree_on_ports_and_user(tier):
    _, spec = pods(())[tier]
    [exposed] = re.findall(r"^EXPOSE (.+)$", last_stage(tier), re.MULTILINE)
    assert {int(port) for port in exposed.split()} == {
        port["containerPort"] for port in container(spec)["ports"]
    }
    user, group = (spec["securityContext"][key] for key in ("runAsUser", "runAsGroup"))
    assert f"\nUSER {user}:{group}\n" in last_stage(tier)


def test_the_models_flags_are_its_images_and_more():
    """Arguments in a manifest take the place of those in the image."""
    [text] = re.findall(r"^CMD (\[.+\])$", last_stage("model"), re.MULTILINE)
    _, spec = pods(())["model"]
    assert set(json.loads(text)) <= set(container(spec)["args"])
    files = {path.name for path in (services.ROOT / "serving").iterdir()}
    named = re.findall(r"=/config/(\S+)", " ".join(container(spec)["args"]))
    assert len(named) == 2 and files.issuperset(named)


@pytest.mark.parametrize("tier", WORKLOADS)
def test_compose_runs_the_same_images(tier, compose):
    _, spec = pods(())[tier]
    name = container(spec)["image"].partition(":")[0]
    assert compose["services"][tier]["image"].partition(":")[0] == name
    assert compose["services"][tier]["build"]["dockerfile"] == f"Dockerfile.{tier}"


def test_compose_tells_the_gateway_the_same(compose):
    _, spec = pods(())["gateway"]
    here = {each["name"]: each["value"] for each in container(spec)["env"]}
    there = compose["services"]["gateway"]
    there_all = (
        dict(re.findall(r"(GATEWAY_\w+)=(\S+)", last_stage("gateway"))) | there["environment"]
    )
    assert here == {name: there_all[name] for name in here}
    [contract] = [each for each in there["volumes"] if "contract.json" in each]
    assert contract.split(":")[-2] == here["GATEWAY_CONTRACT"]


@every_choice
def test_the_gateway_takes_these_settings(choice):
    for labels, spec in pods(choice).values():
        if labels[NAME] == "gateway":
            environment = {each["name"]: each["value"] for each in container(spec)["env"]}
            environment["GATEWAY_CONTRACT"] = str(kubernetes.CONTRACT)  # which is mounted there
            settings = read_settings(environment)
            ports = {port["name"]: port["containerPort"] for port in container(spec)["ports"]}
            assert settings["BIND"] == f"0.0.0.0:{ports['http']}"
            assert settings["ADMIN_BIND"] == f"0.0.0.0:{ports['admin']}"


def test_both_scrape_the_same_metrics():
    text = (services.ROOT / "compose/prometheus.yml").read_text()
    for each in of_kind(("monitoring",), "PodMonitor"):
        [endpoint] = each["spec"]["podMetricsEndpoints"]
        assert endpoint["path"] in text or endpoint["path"] == "/metrics"  # Prometheus' default
    [path] = re.findall(r'path: "(.+)"', (services.ROOT / "serving/monitoring.txt").read_text())
    assert path == endpoint["path"]


def test_keys_stand_in_one_order():
    order = {
        "object": "apiVersion kind metadata spec",
        "container": "name image args ports env resources startupProbe readinessProbe livenessProbe"
        " lifecycle securityContext volumeMounts",
    }
    for path in K8S.glob("base/[!k]*.yaml"):
        for each in yaml.safe_load_all(path.read_text()):
            assert [key for key in order["object"].split() if key in each] == list(each)
            for spec in [each["spec"]["template"]["spec"]] if each["kind"] == "Deployment" else []:
                keys = list(container(spec))
                assert [key for key in order["container"].split() if key in keys] == keys


def test_what_kubectl_says_is_passed_on(tmp_path):
    with pytest.raises(TutorialError, match=r"cannot render .*unable to find one of"):
        kubernetes.render(tmp_path)
