"""Convert a model, start both tiers and show an answer: the command behind `make run`.

python -m tutorial.run --model starter
"""

import argparse
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import requests

from tutorial import ROOT, TutorialError, services, sources
from tutorial.model_folder import versions
from tutorial.notebooks import execute
from tutorial.processes import Server, port_open, start_server

NOTEBOOK = ROOT / "notebooks/01-convert-model.ipynb"
SAMPLE = Path("starter/samples/t-shirt.jpg")


def main() -> None:
    """Run the services until Ctrl-C, or until one of them ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter", help="starter, course, or a model's path")
    parser.add_argument("--labels", default="", help="classes of your own model: cat,dog,bird")
    parser.add_argument("--preprocessing", default="xception", help="see notebook 04")
    parser.add_argument("--gateway-port", type=int, default=9696)
    parser.add_argument("--admin-port", type=int, default=9697)
    parser.add_argument("--model-port", type=int, default=8500)
    args = parser.parse_args()
    try:
        check_ports(
            GATEWAY_PORT=args.gateway_port, ADMIN_PORT=args.admin_port, MODEL_PORT=args.model_port
        )
        name = convert(args.model, args.labels, args.preprocessing)
        print(f"Starting the model server and the gateway for {name}", flush=True)
        signals = catch_signals()
        with start(name, args.gateway_port, args.admin_port, args.model_port) as servers:
            welcome(args.gateway_port, servers.log)
            while servers.running and not signals:
                time.sleep(0.2)
        if not signals:
            raise TutorialError(f"a server ended; {servers.log} says why")
    except TutorialError as error:
        sys.exit(f"make run: {error}")
    except KeyboardInterrupt:
        print("\nStopped.")


def catch_signals() -> list[int]:
    """Make Ctrl-C, TERM and HUP raise KeyboardInterrupt; return a list that collects them.

    Python drops an exception that is raised in a destructor. The list still has the signal then.
    """
    caught: list[int] = []

    def interrupt(number: int, _: object) -> None:
        caught.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    return caught


def check_ports(**ports: int) -> None:
    """Raise TutorialError if one of the ports is in use; the keys are make's variables."""
    for variable, port in ports.items():
        if port_open(port):
            raise TutorialError(
                f"port {port} is in use: stop the program that listens there, or choose another"
                f" port with make run {variable}={port + 1}"
            )


def convert(model: str, labels: str, preprocessing: str) -> str:
    """Run notebook 01 for `model` and return its name in models/.

    Nothing is done if the result of the same inputs is there. Two commands at once convert a model
    only once. A model that cannot work is refused before the notebook starts.
    """
    source, name = sources.find_model(model), sources.served_name(model)
    sources.read_labels(model, labels)
    parameters = {
        "MODEL": model if model in sources.BUNDLED else str(Path(model).expanduser().resolve()),
        "LABELS": labels,
        "MODEL_NAME": name,
        "PREPROCESSING": preprocessing,
    }
    record = services.BUILD / "converted" / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = record.exists() and record.read_text() == fingerprint(source, parameters)
        if not done or not versions(ROOT / "models" / name):
            record.unlink(missing_ok=True)
            print(f"Converting {model} with {NOTEBOOK.relative_to(ROOT)}", flush=True)
            execute(NOTEBOOK, parameters, record.with_suffix(".ipynb"))
            record.write_text(fingerprint(source, parameters))
    return name


def fingerprint(source: Path, parameters: dict[str, str]) -> str:
    """Describe what a conversion depends on and what it wrote; equal means nothing to do."""
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    stats = [file.stat() for file in files if file.is_file()]
    contract = ROOT / "models" / parameters["MODEL_NAME"] / "contract.json"
    code = [path.read_bytes() for path in (NOTEBOOK, ROOT / "tutorial/convert.py")]
    facts = {
        "parameters": parameters,
        "source": [(stat.st_size, stat.st_mtime_ns) for stat in stats],
        "code": hashlib.sha256(b"".join(code)).hexdigest(),
        "contract": contract.read_text() if contract.exists() else None,
    }
    return json.dumps(facts, indent=1)


def start(name: str, gateway_port: int, admin_port: int, model_port: int) -> Server:
    """Start the processes of the Procfile; return when the gateway is ready."""
    binaries = Path(sys.executable).parent
    return start_server(
        "the services",
        [sys.executable, "-m", "honcho", "--no-colour", "start"],
        ready=lambda: services.http_status(f"http://127.0.0.1:{admin_port}/readyz") == 200,
        log=services.BUILD / f"logs/run-{gateway_port}.log",
        cwd=ROOT,
        env={
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "MODEL_NAME": name,
            "MODEL_PORT": str(model_port),
            "GATEWAY_BIND": f"127.0.0.1:{gateway_port}",
            "GATEWAY_ADMIN_BIND": f"127.0.0.1:{admin_port}",
            "GATEWAY_MODEL_ADDRESS": f"127.0.0.1:{model_port}",
            "GATEWAY_CONTRACT": f"models/{name}/contract.json",
        },
        timeout=120,
        grace=10,  # honcho ends its own processes
    )


def welcome(gateway_port: int, log: Path) -> None:
    """Print the address of the page, a command that works when pasted, and its answer."""
    base = f"http://127.0.0.1:{gateway_port}"
    with open(ROOT / SAMPLE, "rb") as picture:
        answer = requests.post(f"{base}/predict", files={"file": picture}, timeout=60)
    if answer.status_code != requests.codes.ok:
        raise TutorialError(f"the gateway answered {answer.status_code}: {answer.text}")
    print(f"\n  The page     {base}/")
    print(f"  In a shell   curl {base}/predict -F file=@{SAMPLE}\n")
    for label, score in sorted(answer.json().items(), key=lambda pair: -pair[1]):
        print(f"    {label:12} {score:7.2f}")
    print(f"\n  Logs are in {log.relative_to(ROOT)}. Ctrl-C ends everything.", flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
