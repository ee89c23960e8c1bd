"""Run the pods of manifests with Podman, on a machine without a cluster.

Podman reads Deployments and ConfigMaps, and enforces their security contexts and limits. It has no
Services, no rollouts and no probes: a network's alias stands in for a Service's name.
"""

import shutil
import subprocess
from copy import deepcopy

import yaml

from tutorial import ROOT, kubernetes
from tutorial.processes import show as show_command

NETWORK = "clothing"


def missing(objects: list[kubernetes.Manifest]) -> str | None:
    """Return what keeps Podman from running these objects' Deployments, or None."""
    if not shutil.which("podman"):
        return "there is no Podman"
    for each in objects:
        if each["kind"] == "Deployment":
            image = container(each)["image"]
            if subprocess.run(["podman", "image", "exists", image], capture_output=True).returncode:
                return f"Podman has no image {image}"
    return None


def container(deployment: kubernetes.Manifest) -> dict:
    """Return the only container of a Deployment's pods."""
    [found] = deployment["spec"]["template"]["spec"]["containers"]
    return found


def pod(objects: list[kubernetes.Manifest], name: str, ports: dict[str, int]) -> str:
    """Return one pod of the Deployment `name` as YAML for `podman kube play`, with all ConfigMaps.

    `ports` maps names of the container's ports to ports of this machine's loopback address.
    """
    deployment = deepcopy(kubernetes.find(objects, "Deployment", name))
    deployment["spec"]["replicas"] = 1
    inside = container(deployment)
    for port in inside["ports"]:
        if port["name"] in ports:
            port |= {"hostPort": ports[port["name"]], "hostIP": "127.0.0.1"}
    for volume in [*deployment["spec"]["template"]["spec"]["volumes"], *inside["volumeMounts"]]:
        volume["name"] = f"{name}-{volume['name']}"  # Podman's pods share volumes of the same name
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        inside.pop(probe, None)  # Podman would run curl in the container
    limit = inside["resources"]["limits"]["cpu"]  # a cluster fills in variables, Podman does not
    inside["args"] = [arg.replace("$(CPU_LIMIT)", limit) for arg in inside.get("args", [])]
    maps = [deepcopy(each) for each in objects if each["kind"] == "ConfigMap"]
    for each in [*maps, deployment]:
        each["metadata"].pop("namespace", None)
    return yaml.safe_dump_all([*maps, deployment], sort_keys=False)


def play(objects: list[kubernetes.Manifest], name: str, ports: dict[str, int]) -> None:
    """Start a pod of the Deployment `name`, which other pods reach by that name; see `pod`."""
    file = ROOT / "build" / "podman" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(pod(objects, name, ports))
    show(f"kube play --network {NETWORK}:alias={name} {file.relative_to(ROOT)}")


def show(command: str) -> None:
    """Run podman with `command` in the repository's folder; print the command and its output."""
    show_command(f"podman {command}", ["podman", *command.split()], missing=None)
