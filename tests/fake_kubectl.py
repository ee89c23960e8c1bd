"""Stands in for kubectl: understands just what the cluster check types, and keeps a small world.

The world is the JSON file that FAKE_CLUSTER names. FAKE_FAULT makes it a bad one: "pinned" (pods
that are born later get no requests), "lossy" (rolling out a gateway loses requests), "old" (the
next image has no newer model), "stuck" (rollouts never end).
"""

import json
import os
import sys
from pathlib import Path

WORLD = Path(os.environ["FAKE_CLUSTER"])
FAULT = os.environ.get("FAKE_FAULT", "")
VERSIONS = {"clothing-model:0.1.0": 1, "clothing-model:next": 1 if FAULT == "old" else 2}


def main(*words: str) -> None:
    """Answer one command; one that it does not know is an error."""
    assert words[:4] == ("--context", "kind-test", "--namespace", "clothing")
    world = json.loads(WORLD.read_text()) if WORLD.exists() else None
    world = answer(list(words[4:]), world)
    WORLD.write_text(json.dumps(world))


def answer(words: list[str], world: dict | None) -> dict:
    """Print what kubectl would, and return the world as it is afterwards."""
    match words:
        case ["apply", "--kustomize", "k8s/overlays/kind"]:
            world = {"pods": [], "born": 0, "revisions": {}, "load": None}
            deploy(world, "gateway", "clothing-gateway:0.1.0", 2)
            deploy(world, "model", "clothing-model:0.1.0", 1)
        case ["create", "configmap", "load", script, picture]:
            assert script.startswith("--from-file=") and script.endswith("/load.py")
            assert picture.startswith("--from-file=") and picture.endswith("/t-shirt.jpg")
        case ["apply", "--filename", "-"]:
            pod = json.load(sys.stdin)
            assert pod["spec"]["containers"][0]["image"] == "clothing-gateway:0.1.0"
            world["load"] = {"answered": 0, "failed": 0, "failure": ""}
        case ["rollout", "status", "deployment/model" | "deployment/gateway", "--timeout=2s"]:
            if FAULT == "stuck" and world["load"]:
                sys.exit("error: timed out waiting for the condition")
        case ["wait", "pod/load", "--for=condition=Ready", "--timeout=2s"]:
            assert world["load"]
        case ["delete", "pod/load", "configmap/load", "--ignore-not-found", "--now"]:
            world["load"] = None
        case ["get", "deployment", "gateway", "--output", path]:
            assert path == "jsonpath={.spec.template.spec.containers[0].image}"
            print(world["revisions"]["gateway"][-1], end="")
        case ["get", "pods", "--selector", selector, "--output", "json"]:
            tier = selector.removeprefix("app.kubernetes.io/name=")
            print(json.dumps({"items": [shown(pod) for pod in of_tier(world, tier)]}))
            world["pods"] = [pod for pod in world["pods"] if not pod["ending"]]
        case ["get", "--raw", path]:
            print(asked(world, path.removeprefix("/api/v1/namespaces/clothing/pods/")))
        case ["logs", "load", "--tail=1"]:
            world["load"]["answered"] += 5
            print(json.dumps(world["load"]))
        case ["scale", deployment, replicas]:
            tier = deployment.removeprefix("deployment/")
            number = int(replicas.removeprefix("--replicas="))
            while len(of_tier(world, tier)) < number:
                bear(world, tier)
        case ["set", "image", deployment, setting]:
            tier, image = setting.split("=")
            assert deployment == f"deployment/{tier}"
            world["revisions"][tier].append(image)
            replace(world, tier)
            if FAULT == "lossy" and tier == "gateway":
                world["load"] |= {"failed": 3, "failure": "ConnectionResetError"}
        case ["rollout", "undo", "deployment/model"]:
            world["revisions"]["model"].pop()
            replace(world, "model")
        case ["get", "pods" | "events", *_] | ["logs", "--selector", *_]:
            print("what a person would look at")
        case _:
            sys.exit(f"error: the fake does not know: {words}")
    return world


def deploy(world: dict, tier: str, image: str, replicas: int) -> None:
    """A Deployment with its pods."""
    world["revisions"][tier] = [image]
    for _ in range(replicas):
        bear(world, tier)


def bear(world: dict, tier: str) -> None:
    """One more pod of a tier."""
    world["born"] += 1
    pod = {"tier": tier, "image": world["revisions"][tier][-1], "born": world["born"]}
    world["pods"].append(pod | {"requests": 0, "ending": False})


def replace(world: dict, tier: str) -> None:
    """Start new pods for a tier; the old ones end, and are gone at the next look."""
    for pod in of_tier(world, tier):
        bear(world, tier)
        pod["ending"] = True


def of_tier(world: dict, tier: str) -> list[dict]:
    """A tier's pods."""
    return [pod for pod in world["pods"] if pod["tier"] == tier]


def shown(pod: dict) -> dict:
    """A pod as kubectl shows it, so far as the check looks."""
    born = f"2026-01-01T00:00:{pod['born']:02}Z"
    metadata = {"name": f"{pod['tier']}-{pod['born']}", "creationTimestamp": born}
    if pod["ending"]:
        metadata["deletionTimestamp"] = born
    return {"metadata": metadata}


def asked(world: dict, path: str) -> str:
    """What a model pod answers through the proxy."""
    name, _, path = path.partition(":8501/proxy")
    [pod] = [pod for pod in world["pods"] if f"{pod['tier']}-{pod['born']}" == name]
    if path == "/v1/models/starter/metadata":
        return json.dumps({"model_spec": {"version": str(VERSIONS[pod["image"]])}})
    assert path == "/monitoring/prometheus/metrics"
    oldest = min(of_tier(world, "model"), key=lambda each: each["born"])
    pod["requests"] += 10 if FAULT != "pinned" or pod is oldest else 0
    line = ':tensorflow:serving:request_count{model_name="starter",status="%s"} %d'
    return "\n".join([line % ("OK", pod["requests"]), line % ("INTERNAL", 1000)])


if __name__ == "__main__":
    main(*sys.argv[1:])
