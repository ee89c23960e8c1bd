"""The command behind `make run`: convert the model, start both tiers, show an answer, wait.

python -m tutorial.run --model starter
"""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import requests

from tutorial import TutorialError, services
from tutorial.model_folder import BUNDLED, served_name, versions
from tutorial.notebooks import execute
from tutorial.processes import Server, port_open, start_server

NOTEBOOK = services.ROOT / "notebooks/01-convert-model.ipynb"
SAMPLE = Path("starter/samples/t-shirt.jpg")


def main() -> None:
    """Run from the project's root, until Ctrl-C or until a server ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="starter", help="starter, course, or a model's path")
    parser.add_argument("--labels", default="", help="classes of your own model: cat,dog,bird")
    parser.add_argument("--preprocessing", default="xception", help="see notebook 04")
    parser.add_argument("--gateway-port", type=int, default=9696)
    parser.add_argument("--admin-port", type=int, default=9697)
    parser.add_argument("--model-port", type=int, default=8500)
    args = parser.parse_args()
    try:
        refuse_ports_in_use(
            GATEWAY_PORT=args.gateway_port, ADMIN_PORT=args.admin_port, MODEL_PORT=args.model_port
        )
        name = convert(args.model, args.labels, args.preprocessing)
        print(f"Starting the model server and the gateway for {name}", flush=True)
        told_to_end = catch_signals()
        with start(name, args.gateway_port, args.admin_port, args.model_port) as servers:
            welcome(args.gateway_port)
            while servers.running and not told_to_end:
                time.sleep(0.2)
        if not told_to_end:
            raise TutorialError(f"a server ended: {servers.log} says why")
    except TutorialError as error:
        sys.exit(f"make run: {error}")
    except KeyboardInterrupt:
        print("\nStopped.")


def catch_signals() -> list[int]:
    """Make Ctrl-C, TERM and HUP raise KeyboardInterrupt; return the list in which they are noted.

    The note is for the case that the exception meets a destructor, where Python drops it.
    """
    noted: list[int] = []

    def end(number: int, _: object) -> None:
        noted.append(number)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    return noted


def refuse_ports_in_use(**ports: int) -> None:
    """Raise TutorialError, before any work, where something listens on one of the ports."""
    for variable, port in ports.items():
        if port_open(port):
            raise TutorialError(
                f"port {port} is in use: stop the program that listens there, or choose another"
                f" port with make run {variable}={port + 1}"
            )


def convert(model: str, labels: str, preprocessing: str) -> str:
    """Run notebook 01 for the model, unless that was done with the same inputs; return its name."""
    parameters = {
        "MODEL": model if model in BUNDLED else str(Path(model).expanduser().resolve()),
        "LABELS": labels,
        "MODEL_NAME": served_name(model),
        "PREPROCESSING": preprocessing,
    }
    folder = services.ROOT / "models" / parameters["MODEL_NAME"]
    record = services.BUILD / "converted" / f"{folder.name}.json"
    if versions(folder) and record.exists() and record.read_text() == fingerprint(parameters):
        return folder.name
    record.unlink(missing_ok=True)
    print(f"Converting {model} with {NOTEBOOK.relative_to(services.ROOT)}", flush=True)
    execute(NOTEBOOK, parameters)
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(fingerprint(parameters))
    return folder.name


def fingerprint(parameters: dict[str, str]) -> str:
    """What a conversion depends on and what it wrote: equal means that nothing has to be done."""
    model = parameters["MODEL"]
    source = services.ROOT / "starter/starter.h5" if model == "starter" else Path(model)
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    stats = [file.stat() for file in files if file.is_file()]
    contract = services.ROOT / "models" / parameters["MODEL_NAME"] / "contract.json"
    facts = {
        "parameters": parameters,
        "source": [(stat.st_size, stat.st_mtime_ns) for stat in stats],
        "notebook": hashlib.sha256(NOTEBOOK.read_bytes()).hexdigest(),
        "contract": contract.read_text() if contract.exists() else None,
    }
    return json.dumps(facts, indent=1)


def start(name: str, gateway_port: int, admin_port: int, model_port: int) -> Server:
    """Start the Procfile's processes; return when the gateway is ready."""
    binaries = Path(sys.executable).parent
    return start_server(
        "the services",
        [sys.executable, "-m", "honcho", "--no-colour", "start"],
        ready=lambda: services.http_status(f"http://127.0.0.1:{admin_port}/readyz") == 200,
        log=services.BUILD / "logs/run.log",
        cwd=services.ROOT,
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
        grace=10,  # honcho ends its processes itself
    )


def welcome(gateway_port: int) -> None:
    """Print where the page is, a line that works when pasted, and the answer it gives."""
    base = f"http://127.0.0.1:{gateway_port}"
    with open(services.ROOT / SAMPLE, "rb") as picture:
        answer = requests.post(f"{base}/predict", files={"file": picture}, timeout=60)
    if answer.status_code != requests.codes.ok:
        raise TutorialError(f"the gateway answered {answer.status_code}: {answer.text}")
    print(f"\n  The page     {base}/")
    print(f"  In a shell   curl {base}/predict -F file=@{SAMPLE}\n")
    for label, score in sorted(answer.json().items(), key=lambda pair: -pair[1]):
        print(f"    {label:12} {score:7.2f}")
    print(
        f"\n  Logs are in {services.BUILD.name}/logs/run.log. Ctrl-C ends everything.", flush=True
    )


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
