"""Send known pictures through a running gateway, and write what they look like: reference.json.

python -m gateway.operations.measure_reference PHOTOS --contract models/starter/contract.json

PHOTOS has a folder for each label, or pictures alone. No other client may call the gateway then.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import urllib3
from prometheus_client.parser import text_string_to_metric_families

from gateway.contract import Contract
from gateway.errors import ContractError
from gateway.operations.reference import bins

KEPT = 0.95  # share of the right answers that `unsure_below` keeps

http = urllib3.PoolManager(timeout=30)


def main() -> None:
    """Write reference.json beside the contract."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="a folder of pictures, or of folders by label")
    parser.add_argument("--contract", type=Path, required=True, help="the gateway's contract.json")
    parser.add_argument("--gateway", default="http://127.0.0.1:9696")
    parser.add_argument("--admin", default="http://127.0.0.1:9697", help="where /metrics is")
    options = parser.parse_args()
    try:
        contract = Contract.read(options.contract)
        found = measure(options.photos, contract, options.gateway, options.admin)
    except (ContractError, ValueError, OSError, urllib3.exceptions.HTTPError) as error:
        sys.exit(f"measure_reference: {error}")
    path = options.contract.with_name("reference.json")
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{path}: {found['pictures']} pictures; unsure below {found['unsure_below']}")
    print("Start the gateway again, so that it reads the file")


def measure(photos: Path, contract: Contract, gateway: str, admin: str) -> dict:
    """Return the content of reference.json: pictures, unsure_below, and the shares of the bins.

    Raises ValueError if no picture can be used, or another client has sent pictures, too.
    """
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    before, kept, answered = read_counts(admin), [], 0
    for path in files:
        if not (best := classify(gateway, path)):
            continue
        answered += 1
        if path.parent.name not in contract.labels or path.parent.name == best["label"]:
            kept.append(best["probability"])
    if not kept:
        raise ValueError(f"{photos}: no picture has an answer that is right")
    after = read_counts(admin)
    if {("label", label) for label in contract.labels} - after.keys():
        raise ValueError("the gateway serves a model with other labels than the contract's")
    counts = {key: after[key] - before.get(key, 0) for key in after}
    if sum(counts["label", label] for label in contract.labels) != answered:
        raise ValueError("another client has sent pictures, too: measure again, without it")
    kept.sort(reverse=True)
    return {
        "pictures": answered,
        "unsure_below": math.floor(100 * kept[math.ceil(KEPT * len(kept)) - 1]) / 100,
        "shares": {
            signal: {each: round(counts[signal, each] / answered, 4) for each in names}
            for signal, names in bins(contract).items()
        },
    }


def classify(gateway: str, path: Path) -> dict | None:
    """Return the best label and its probability; print why, if a file is no picture."""
    kind = {"Content-Type": "application/octet-stream"}
    answer = http.request("POST", f"{gateway}/classify", body=path.read_bytes(), headers=kind)
    if 400 <= answer.status < 500:
        print(f"{path} is left out: {answer.json()['detail']}")
        return None
    if answer.status != 200:
        raise ValueError(f"{path}: the gateway answered {answer.status}: {answer.data.decode()}")
    return answer.json()["predictions"][0]


def read_counts(admin: str) -> dict[tuple[str, str], float]:
    """Return how many pictures the gateway has counted so far, by signal and bin."""
    text = http.request("GET", f"{admin}/metrics").data.decode()
    samples = [each for family in text_string_to_metric_families(text) for each in family.samples]
    return {
        (each.labels["signal"], each.labels["bin"]): each.value
        for each in samples
        if each.name == "gateway_pictures_total"
    }


if __name__ == "__main__":
    main()
