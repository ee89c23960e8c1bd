"""Everything under k8s/ renders, is valid, and fits together: in every overlay and combination."""

import functools
import ipaddress
import itertools
import json
import re
import shutil

import kubernetes_validate
import pytest
import yaml

from gateway.operations.settings import read_settings
from tutorial import ROOT, TutorialError, kubernetes, services
from tutorial.kubernetes import K8S, find

# Upstream maintains the last three; 1.34, the oldest that README.md promises, is still to be met in
# clouds.
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
FOLDERS = ("", *(f"overlays/{name}" for name in OVERLAYS))
MENU = (
    (),
    *((name,) for name in kubernetes.components()),
    *itertools.combinations(kubernetes.components(), 2),
    tuple(kubernetes.components()),
)
# The fields of KEDA 2.21 (keda.sh/docs/2.21): of a ScaledObject, and of its trigger "prometheus".
KEDA = {
    *("scaleTargetRef", "pollingInterval", "cooldownPeriod", "initialCooldownPeriod"),
    *("idleReplicaCount", "minReplicaCount", "maxReplicaCount", "fallback", "advanced", "triggers"),
}
KEDA_PROMETHEUS = {
    *("serverAddress", "query", "threshold", "activationThreshold", "namespace", "customHeaders"),
    *("ignoreNullValues", "queryParameters", "unsafeSsl", "timeout", "authModes"),
}
NAME, INSTANCE = "app.kubernetes.io/name", "app.kubernetes.io/instance"

every_choice = pytest.mark.parametrize(
    "choice", [*FOLDERS, *MENU], ids=lambda each: each if isinstance(each, str) else "+".join(each)
)


@functools.cache
def rendered(choice):
    """The objects of "k8s" itself, of an overlay, or of the base with some components."""
    if isinstance(choice, str):
        return kubernetes.render(K8S / choice)
    return kubernetes.render_with(*choice)


def of_kind(choice, *kinds):
    return [each for each in rendered(choice) if each["kind"] in kinds]


class Pod:
    """What the pods of a Deployment have in common."""

    def __init__(self, deployment):
        template = deployment["spec"]["template"]
        self.labels, self.spec = template["metadata"]["labels"], template["spec"]
        self.tier = self.labels[NAME]
        [self.container] = self.spec["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.environment = {each["name"]: each.get("value") for each in self.container["env"]}


def pods(choice):
    return {each["metadata"]["name"]: Pod(each) for each in of_kind(choice, "Deployment")}


def test_cloud_takes_the_images_of_components_from_the_registry(tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s/overlays/cloud"
    for component in ("gpu", "model-server", "openvino"):
        kustomization = yaml.safe_load((K8S / "overlays/cloud/kustomization.yaml").read_text())
        kustomization["components"].append(f"../../components/{component}")
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        model = find(kubernetes.render(overlay), "Deployment", "model")
        image = Pod(model).container["image"]
        assert re.match(rf"registry\.example\.com/clothing-(model-)?{component}:", image)


# Schemas


@pytest.fixture(scope="module")
def schemas_read_once():
    """kubernetes-validate reads megabytes of JSON for each object: let it keep them."""
    with pytest.MonkeyPatch.context() as patch:
        utils = kubernetes_validate.utils
        patch.setattr(utils, "schema_contents", functools.cache(utils.schema_contents))
        yield


@pytest.mark.parametrize("version", VERSIONS)
def test_all_objects_are_valid(version, schemas_read_once):
    everything = (each for choice in [*FOLDERS, *MENU] for each in rendered(choice))
    objects = {json.dumps(each, sort_keys=True): each for each in everything}
    assert len(objects) > 30
    for each in objects.values():
        match each["apiVersion"], each["kind"]:
            case "keda.sh/v1alpha1", "ScaledObject":
                assert_keda_knows(each, version)
            case "monitoring.coreos.com/v1", "PrometheusRule":
                assert each["spec"] == yaml.safe_load((ROOT / "compose/drift.yml").read_text())
            case "monitoring.coreos.com/v1", "PodMonitor":
                assert each["spec"].keys() == {"selector", "podMetricsEndpoints"}
                for endpoint in each["spec"]["podMetricsEndpoints"]:
                    assert endpoint.keys() == {"port", "path", "interval"}
                    assert re.fullmatch(r"\d+s", endpoint["interval"])
            case _:
                assert kubernetes_validate.validate(each, version, strict=True) == version


def assert_keda_knows(scaled, version):
    """Check a ScaledObject, whose schema is KEDA's; a part of it is that of Kubernetes."""
    spec = scaled["spec"]
    assert spec.keys() <= KEDA
    assert 0 <= spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert spec["fallback"].keys() <= {"failureThreshold", "replicas", "behavior"}
    [(_, config)] = spec["advanced"].items()
    made = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": scaled["metadata"],
        "spec": {
            "scaleTargetRef": spec["scaleTargetRef"],
            "maxReplicas": spec["maxReplicaCount"],
            "behavior": config["behavior"],
        },
    }
    assert kubernetes_validate.validate(made, version, strict=True) == version
    for trigger in spec["triggers"]:
        assert trigger.keys() == {"type", "name", "metadata"}
        assert trigger["type"] == "prometheus"
        assert {"serverAddress", "query", "threshold"} <= trigger["metadata"].keys()
        assert trigger["metadata"].keys() <= KEDA_PROMETHEUS
        assert {type(value) for value in trigger["metadata"].values()} == {str}
        assert f'namespace="{scaled["metadata"]["namespace"]}"' in trigger["metadata"]["query"]


# What refers to what


@every_choice
def test_all_objects_are_in_one_namespace(choice):
    for each in rendered(choice):
        key = "name" if each["kind"] == "Namespace" else "namespace"
        assert each["metadata"][key] == "clothing"


@every_choice
def test_every_selector_finds_its_pods_and_only_those(choice):
    for each in rendered(choice):
        spec, name = each.get("spec"), each["metadata"]["name"]
        match each["kind"]:
            case "Service":
                selector = spec["selector"]
            case "Deployment" | "PodDisruptionBudget" | "PodMonitor":
                selector = spec["selector"]["matchLabels"]
            case "NetworkPolicy":
                selector = spec["podSelector"]["matchLabels"]
            case _:
                continue
        names = [name]
        if each["kind"] != "Deployment":  # these are for both instances
            names.append(f"{name.removesuffix('-canary')}-canary")
        found = pods(choice)
        chosen = {key for key, pod in found.items() if selector.items() <= pod.labels.items()}
        assert chosen == found.keys() & set(names), (each["kind"], name)


@every_choice
def test_every_port_has_its_name_in_the_pods(choice):
    for each in of_kind(choice, "Service", "NetworkPolicy", "PodMonitor"):
        spec, ports = each["spec"], pods(choice)[each["metadata"]["name"]].ports
        match each["kind"]:
            case "Service":
                for port in spec["ports"]:
                    assert port["name"] == port["targetPort"]
                    assert port["port"] == ports[port["targetPort"]]
            case "PodMonitor":
                assert {port["port"] for port in spec["podMetricsEndpoints"]} <= ports.keys()
            case "NetworkPolicy":
                named = {port["port"] for rule in spec["ingress"] for port in rule["ports"]}
                assert named <= ports.keys()


@every_choice
def test_probes_use_ports_of_their_pod(choice):
    for pod in pods(choice).values():
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            match pod.container[probe]:
                case {"httpGet": {"port": port}}:
                    assert port in {"admin", "rest"} & pod.ports.keys()
                case {"grpc": {"port": number}}:  # Kubernetes knows no names here
                    assert number == pod.ports["grpc"]
                case other:
                    pytest.fail(f"{probe}: {other}")


@every_choice
def test_gateways_find_model_and_contract_and_take_their_settings(choice):
    service = find(rendered(choice), "Service", "model")
    assert service["spec"]["clusterIP"] == "None"
    [port] = [port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc"]
    maps = {each["metadata"]["name"]: each["data"] for each in of_kind(choice, "ConfigMap")}
    for pod in pods(choice).values():
        if pod.tier == "gateway":
            assert pod.environment["GATEWAY_MODEL_ADDRESS"] == f"model:{port}"
            [volume] = [each for each in pod.spec["volumes"] if each["name"] == "contract"]
            [mount] = [m for m in pod.container["volumeMounts"] if m["name"] == "contract"]
            assert set(maps[volume["configMap"]["name"]]) == {"contract.json", "reference.json"}
            assert pod.environment["GATEWAY_CONTRACT"] == f"{mount['mountPath']}/contract.json"
            contract = {"GATEWAY_CONTRACT": str(kubernetes.CONTRACT)}  # which is mounted there
            settings = read_settings(pod.environment | contract)
            assert settings["BIND"] == f"0.0.0.0:{pod.ports['http']}"
            assert settings["ADMIN_BIND"] == f"0.0.0.0:{pod.ports['admin']}"


@every_choice
def test_volumes_are_mounted_and_their_sources_exist(choice):
    exist = {
        (each["kind"], each["metadata"]["name"])
        for each in of_kind(choice, "ConfigMap", "PersistentVolumeClaim")
    }
    for pod in pods(choice).values():
        mounted = {mount["name"] for mount in pod.container["volumeMounts"]}
        assert {volume["name"] for volume in pod.spec["volumes"]} == mounted
        for volume in pod.spec["volumes"]:
            match volume:
                case {"configMap": {"name": name}}:
                    assert ("ConfigMap", name) in exist
                case {"persistentVolumeClaim": {"claimName": name}}:
                    assert ("PersistentVolumeClaim", name) in exist


@every_choice
def test_only_deployments_that_are_not_scaled_name_a_number_of_replicas(choice):
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]
        for each in of_kind(choice, "HorizontalPodAutoscaler", "ScaledObject")
    }
    deployments = {each["metadata"]["name"]: each["spec"] for each in of_kind(choice, "Deployment")}
    assert scaled <= deployments.keys()
    assert {name for name, spec in deployments.items() if "replicas" not in spec} == scaled


@every_choice
def test_pods_meet_the_restricted_standard(choice):
    """The restricted Pod Security standard, on the fields that are used here."""
    labels = find(rendered(choice), "Namespace", "clothing")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(choice).values():
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["enableServiceLinks"] is False
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@every_choice
def test_resources_are_limited_and_threads_follow_the_limit(choice):
    for pod in pods(choice).values():
        resources = pod.container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys() & resources["limits"].keys()
        assert "ephemeral-storage" in resources["limits"]
        if pod.tier == "model":
            arguments = pod.container["args"]
            if "openvino" in choice:
                [config] = [a for a in arguments if a.startswith("--plugin_config=")]
                threads = json.loads(config.partition("=")[2])["INFERENCE_NUM_THREADS"]
                assert threads == "$(CPU_LIMIT)"
            else:
                for flag in ("intra", "inter"):
                    assert f"--tensorflow_{flag}_op_parallelism=$(CPU_LIMIT)" in arguments
            [limit] = [e for e in pod.container["env"] if e["name"] == "CPU_LIMIT"]
            assert limit["valueFrom"] == {"resourceFieldRef": {"resource": "limits.cpu"}}


# Scaling to zero


def test_keda_takes_the_place_of_the_models_autoscaler():
    def scalers(*names):
        kinds = ("HorizontalPodAutoscaler", "ScaledObject")
        return [(each["kind"], each["metadata"]["name"]) for each in of_kind(names, *kinds)]

    assert scalers("keda") == [("ScaledObject", "model")]
    both = [("HorizontalPodAutoscaler", "gateway"), ("ScaledObject", "model")]
    assert scalers("autoscaling", "keda") == both
    words = r"cannot render .*error in remove for path: '/spec/replicas'"
    with pytest.raises(TutorialError, match=words):
        scalers("keda", "autoscaling")


@pytest.mark.parametrize("choice", [("keda",), ("canary", "keda")], ids="+".join)
def test_every_gateway_waits_for_a_model_that_is_scaled_to_zero(choice):
    scaled = find(rendered(choice), "ScaledObject", "model")["spec"]
    calls, waiting = (trigger["metadata"] for trigger in scaled["triggers"])
    assert scaled["minReplicaCount"] == 0 and "gateway_in_flight" in waiting["query"]
    assert calls["activationThreshold"] == waiting["activationThreshold"] == "0"
    contract = {"GATEWAY_CONTRACT": str(kubernetes.CONTRACT)}
    gateways = [pod for pod in pods(choice).values() if pod.tier == "gateway"]
    assert len(gateways) == len(choice)
    for pod in gateways:
        settings = read_settings(pod.environment | contract)
        scrape = 15  # seconds between two looks of Prometheus, in components/monitoring
        assert settings["MODEL_WAIT"] > 2 * (scrape + scaled["pollingInterval"])
        assert settings["MODEL_WAIT"] + settings["REQUEST_TIMEOUT"] < 60


# Ending


def test_each_tier_has_time_to_end():
    gateway, model = pods(())["gateway"], pods(())["model"]
    text = (services.ROOT / "gateway/gunicorn.conf.py").read_text()
    graceful = int(re.search(r"^graceful_timeout = (\d+)$", text, re.MULTILINE)[1])
    [text] = [a for a in model.container["args"] if a.startswith("--grpc_channel_arguments=")]
    arguments = dict(item.split("=") for item in text.partition("=")[2].split(","))
    age = int(arguments["grpc.max_connection_age_ms"])  # gRPC adds up to a tenth
    grace = int(arguments["grpc.max_connection_age_grace_ms"])
    before_term = {
        pod: pod.container["lifecycle"]["preStop"]["sleep"]["seconds"] for pod in (gateway, model)
    }
    assert before_term[gateway] + graceful < gateway.spec["terminationGracePeriodSeconds"]
    assert (1.1 * age + grace) / 1000 < before_term[model], "gateways have left by then"
    assert before_term[model] < model.spec["terminationGracePeriodSeconds"]


def test_kind_gets_a_node_image_by_digest_of_a_version_that_is_checked():
    cluster = yaml.safe_load((K8S / "overlays/kind/cluster.yaml").read_text())
    for node in cluster["nodes"]:
        found = re.fullmatch(r"kindest/node:v(1\.\d+)\.\d+@sha256:[0-9a-f]{64}", node["image"])
        assert found and found[1] in VERSIONS


# The network


def test_gateway_reaches_public_addresses_and_no_private_one():
    policy = find(rendered(("network-policy",)), "NetworkPolicy", "gateway")
    blocks = [
        to["ipBlock"]
        for rule in policy["spec"]["egress"]
        if {port["port"] for port in rule["ports"]} == {80, 443}
        for to in rule["to"]
    ]

    def allowed(address):
        inside = lambda cidr: ipaddress.ip_address(address) in ipaddress.ip_network(cidr)  # noqa: E731
        return any(inside(b["cidr"]) and not any(map(inside, b["except"])) for b in blocks)

    private = "10.1.2.3 172.16.0.1 172.31.255.1 192.168.1.1 169.254.169.254 100.64.0.1 127.0.0.1"
    private += " 0.0.0.0 168.63.129.16 198.18.0.1 224.0.0.1 240.0.0.1 255.255.255.255"
    private += " ::1 fd00::1 fe80::1 fec0::1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:a00:1:: ff02::1"
    assert [address for address in private.split() if allowed(address)] == []
    public = "1.1.1.1 8.8.8.8 172.32.0.1 193.0.0.1 2606:4700::1111 2a00:1450::1"
    assert all(map(allowed, public.split()))


def test_model_calls_nobody_and_answers_gateways_and_monitoring():
    policy = find(rendered(""), "NetworkPolicy", "model")["spec"]
    assert policy["egress"] == [] and "Egress" in policy["policyTypes"]
    callers = {
        port["port"]: json.dumps(rule["from"])
        for rule in policy["ingress"]
        for port in rule["ports"]
    }
    assert callers.keys() == {"grpc", "rest"}
    assert '"gateway"' in callers["grpc"] and '"monitoring"' in callers["rest"]


# Versions of the model


def test_canary_is_the_same_gateway_asking_for_another_version():
    found = pods(("canary",))
    stable, canary = found["gateway"], found["gateway-canary"]
    asked = [pod.environment["GATEWAY_MODEL_VERSION"] for pod in (stable, canary)]
    assert asked == ["stable", "canary"]
    text = json.dumps(canary.spec).replace("contract-canary-", "contract-")
    same = json.loads(text.replace('"value": "canary"', '"value": "stable"'))
    for constraint in same["topologySpreadConstraints"]:
        constraint["labelSelector"]["matchLabels"].pop(INSTANCE)
    assert same == stable.spec


def assert_canary_names_the_contracts_model():
    name = json.loads(kubernetes.CONTRACT.read_text())["model_name"]
    text = kubernetes.MODELS_CONFIG.read_text()
    assert f'name: "{name}"' in text and f'base_path: "/models/{name}"' in text


def test_take_contract_puts_another_model_into_the_manifests(tmp_path, monkeypatch):
    assert_canary_names_the_contracts_model()
    for variable in ("CONTRACT", "MODELS_CONFIG"):
        copy = tmp_path / getattr(kubernetes, variable).name
        copy.write_text(getattr(kubernetes, variable).read_text())
        monkeypatch.setattr(kubernetes, variable, copy)
    (folder := tmp_path / "animals").mkdir()
    (folder / "contract.json").write_text('{"model_name": "animals"}\n')
    kubernetes.take_contract(folder)
    assert_canary_names_the_contracts_model()
    assert kubernetes.CONTRACT.read_text() == '{"model_name": "animals"}\n'
    assert (tmp_path / "reference.json").read_text() == "{}\n"
    (folder / "reference.json").write_text('{"pictures": 7}')
    kubernetes.take_contract(folder)
    assert (tmp_path / "reference.json").read_text() == '{"pictures": 7}'


def test_reference_of_the_manifests_is_the_starters():
    starters = services.ROOT / "starter/starter.reference.json"
    assert (K8S / "base/reference.json").read_text() == starters.read_text()


# The files themselves: the menu, the tags


def test_menu_and_readmes_list_every_component_and_overlay():
    menu, readme = ((K8S / name).read_text() for name in ("kustomization.yaml", "README.md"))
    for name in kubernetes.components():
        assert f"#  - components/{name} " in menu
        assert f"(components/{name}/README.md)" in readme
        assert "**You want it**" in (K8S / "components" / name / "README.md").read_text()
    for name in OVERLAYS:
        assert f"(overlays/{name}/README.md)" in readme


def test_tags_of_the_images_are_in_one_place():
    base = K8S / "base/kustomization.yaml"
    tags = {i["name"]: i["newTag"] for i in yaml.safe_load(base.read_text())["images"]}
    assert tags.keys() == {"clothing-gateway", "clothing-model"}
    assert [path for path in K8S.rglob("*.y*ml") if "newTag" in path.read_text()] == [base]
    for path in K8S.rglob("*.md"):
        named = re.findall(r"(clothing-(?:gateway|model))[\w-]*:([\w.]+)", path.read_text())
        for name, tag in named:
            assert tag == tags[name], path
