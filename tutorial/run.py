"""Convert a model, start both tiers and show an answer: the command behind `make run`.

python -m tutorial.run --model starter
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import requests

from tutorial import ROOT, TutorialError, one_line_errors, services, sources
from tutorial.model_folder import next_version, source_hash, versions
from tutorial.notebooks import execute, run_cells
from tutorial.processes import Server, port_open, start_server

NOTEBOOK = ROOT / "notebooks/01-convert-model.ipynb"
SAMPLE = Path("starter/samples/t-shirt.jpg")
SETTINGS = {  # flags, and variables of the environment; parameters of the notebook
    "MODEL": "starter (the default), course, or a model's path",
    "LABELS": "classes of your own model: cat,dog,bird, or a .txt, .csv or .json file",
    "MODEL_NAME": "the name to serve it under",
    "PREPROCESSING": "how pixels become numbers, see notebook 04",
    "RESIZE": "how pictures were resized in training: nearest, bilinear, bicubic or area",
    "SIZE": "224 or 224x160 (height x width), for a model that takes any size",
    "SIGNATURE": "the signature to serve, of a SavedModel",
    "OUTPUT": "the output to serve, of several",
    "SCORES": "logits, probabilities or independent, where the model does not show it",
    "CUSTOM_OBJECTS": "a Python file with the model's own layers and functions",
    "TRUSTED": "1 if code in the model's file may run",
}
SHOWN = 10  # labels of the answer
TIMEOUT = 120  # seconds that a server may take to start
PATIENCE = 10  # seconds for a gateway that cannot use the model to find a better one
USUAL = 8  # seconds that a start takes, without a word about it


def main() -> None:
    """Run the services until Ctrl-C, or until one of them ends."""
    parser = settings_parser(__doc__.splitlines()[0])
    parser.add_argument("--gateway-port", type=int, default=9696)
    parser.add_argument("--admin-port", type=int, default=9697)
    parser.add_argument("--model-port", type=int, default=8500)
    options = vars(parser.parse_args())
    ports = {name: options.pop(name) for name in ("gateway_port", "admin_port", "model_port")}
    with one_line_errors("make run"):
        reserve_ports(**{name.upper(): port for name, port in ports.items()})
        signals = catch_signals()
        name = convert(**options)
        print(f"Starting the model server and the gateway for {name}", flush=True)
        with start(name, **ports) as servers:
            wait_until_ready(servers, f"http://127.0.0.1:{ports['admin_port']}/readyz")
            welcome(ports["gateway_port"], servers.log, name)
            while servers.running and not signals:
                time.sleep(0.2)
        if not signals:
            raise TutorialError(why_ended(servers.log))


def settings_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with a flag for each of SETTINGS, by default the environment's variable."""
    parser = argparse.ArgumentParser(description=description)
    for name, meaning in SETTINGS.items():
        flag = f"--{name.lower().replace('_', '-')}"
        parser.add_argument(flag, default=os.environ.get(name, ""), help=meaning)
    return parser


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


def reserve_ports(**ports: int) -> None:
    """Lock the ports until this process ends; the keys are make's variables.

    Nothing listens while a model is converted, so another `make run` of this checkout needs the
    locks to see that a port is taken. Raises TutorialError if one is.
    """
    folder = services.BUILD / "ports"
    folder.mkdir(parents=True, exist_ok=True)
    for variable, port in ports.items():
        if not 0 < port < 65536:
            raise TutorialError(f"{variable}={port} is not a port: use 1 to 65535")
        if list(ports.values()).count(port) > 1:
            names = " and ".join(name for name in ports if ports[name] == port)
            raise TutorialError(f"{names} are both {port}: give each a different port")
        lock = os.open(folder / str(port), os.O_CREAT | os.O_WRONLY)  # the system closes it
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = not port_open(port)
        except BlockingIOError:
            free = False
        if not free:
            raise TutorialError(
                f"port {port} is in use: stop the program that listens there, or choose another"
                f" port with make run {variable}={port + len(ports)}"
            )


def convert(model: str = "", **settings: str) -> str:
    """Run notebook 01 for `model` and return its name in models/. `settings` are as in SETTINGS.

    Nothing is done if the result of the same inputs is there. Two commands at once convert a model
    only once. The notebook's own checks of the settings run first, in this process.
    """
    parameters = {key.upper(): value for key, value in settings.items() if value}
    parameters["MODEL"] = model or "starter"
    for key, value in parameters.items():  # the notebook runs in another folder
        is_path = {
            "MODEL": value not in sources.BUNDLED,
            "LABELS": sources.labels_file(value),
            "CUSTOM_OBJECTS": True,
        }
        if is_path.get(key):
            parameters[key] = str(Path(value).expanduser().resolve())
    checked = run_cells(NOTEBOOK, parameters, until="## Open the file")
    source, labels = checked["source"], checked["labels"]
    name = parameters["MODEL_NAME"] = checked["model_name"]
    folder = ROOT / "models" / name
    record = services.BUILD / "converted" / f"{name}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    with record.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parameters["VERSION"] = next_version(folder, source)
        done = record.exists() and record.read_text() == fingerprint(source, labels, parameters)
        if not done:
            if parameters["VERSION"] in versions(folder):
                print(f"models/{name}: version {parameters['VERSION']} is made again")
            elif versions(folder):
                print(
                    f"models/{name} was made from another file, or from this one before it changed:"
                    f" this is version {parameters['VERSION']}, which servers of {name} load."
                    " To serve both, set MODEL_NAME to another name"
                )
            print(f"Converting {model or 'starter'} with {NOTEBOOK.name}", flush=True)
            copy = record.with_suffix(".ipynb")
            execute(NOTEBOOK, parameters, copy, shutdown="immediate")
            record.write_text(fingerprint(source, labels, parameters))
    return name


def fingerprint(source: Path, labels: list[str], parameters: dict[str, object]) -> str:
    """Describe what a conversion depends on and what it wrote; equal means nothing to do."""
    folder = ROOT / "models" / parameters["MODEL_NAME"]
    contract, saved = folder / "contract.json", folder / str(parameters["VERSION"])
    names = "read_model", "convert", "verify", "model_folder"
    modules = [ROOT / f"tutorial/{name}.py" for name in names]
    code = [NOTEBOOK, *modules, ROOT / "gateway/preprocessing.py"]
    if objects := parameters.get("CUSTOM_OBJECTS"):
        code.append(Path(objects))
    facts = {
        "parameters": parameters,
        "labels": labels,
        "source": source_hash(source),
        "code": hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest(),
        "contract": contract.read_text() if contract.exists() else None,
        "saved": saved.stat().st_mtime_ns if saved.exists() else None,
    }
    return json.dumps(facts, indent=1)


def wait_until_ready(servers: Server, url: str) -> None:
    """Return when the gateway's /readyz at `url` says so; print why not, if that takes long.

    Raises TutorialError where waiting does not help: after a while, or if a server has ended.
    """
    since: dict[str, float] = {}  # reason to when it was first given
    printed = set()
    while found := why_not_ready(url):
        reason, patience = found
        if not servers.running:
            raise TutorialError(why_ended(servers.log))
        lasted = time.monotonic() - since.setdefault(reason, time.monotonic())
        if lasted > USUAL and reason not in printed:
            print(f"Not ready yet: {reason}", flush=True)
            printed.add(reason)
        if lasted > patience:
            raise TutorialError(f"{reason}, for {patience} seconds; {servers.log} says more")
        time.sleep(0.2)


def why_not_ready(url: str) -> tuple[str, int] | None:
    """Return why a gateway is not ready, and for how many seconds that may be so.

    A reason of capitals is gRPC's: the model server is starting. Any other does not go away.
    """
    try:
        answer = requests.get(url, timeout=5)
        reason = answer.json()["status"].removeprefix("not ready: ")
    except requests.RequestException:
        return "the gateway does not answer", TIMEOUT
    if answer.ok:
        return None
    if reason.isupper():
        return f"the model server is still loading the model ({reason})", TIMEOUT
    return f"the gateway cannot use the model: {reason}", PATIENCE


def why_ended(log: Path) -> str:
    """Return which server ended first, and the last line that it wrote."""
    text = log.read_text(errors="replace")
    if ended := re.search(r"\| (model|gateway)\.1 stopped", text):
        lines = re.findall(rf"^\S+ {ended[1]}\.1 *\| (.+)", text[: ended.start()], re.MULTILINE)
        server = "model server" if ended[1] == "model" else "gateway"
        return f"the {server} ended: {lines[-1] if lines else 'it wrote nothing'}; see {log}"
    return f"the servers ended; {log} says why"


def start(name: str, gateway_port: int, admin_port: int, model_port: int) -> Server:
    """Start the processes of the Procfile."""
    binaries = Path(sys.executable).parent
    return start_server(
        "the services",
        # -e: Compose's .env is not for these
        [sys.executable, "-m", "honcho", "--no-colour", "-e", "/dev/null", "start"],
        ready=lambda: True,  # wait_until_ready says more
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
        grace=10,  # honcho ends its own processes
    )


def welcome(gateway_port: int, log: Path, name: str) -> None:
    """Print the address of the page, a command that works when pasted, and its answer."""
    base = f"http://127.0.0.1:{gateway_port}"
    with open(ROOT / SAMPLE, "rb") as picture:
        answer = requests.post(f"{base}/predict", files={"file": picture}, timeout=60)
    if answer.status_code != requests.codes.ok:
        raise TutorialError(f"the gateway answered {answer.status_code}: {answer.text}")
    print(f"\n  The page     {base}/")
    print(f"  In a shell   curl {base}/predict -F file=@{SAMPLE}\n")
    ranked = sorted(answer.json().items(), key=lambda pair: -pair[1])
    for label, score in ranked[:SHOWN]:
        print(f"    {label:12} {score:7.2f}")
    if len(ranked) > SHOWN:
        print(f"    and {len(ranked) - SHOWN} more")
    if name != "starter":
        print(f"\n  {SAMPLE.name} belongs to the starter model: send a picture of your own.")
    print(f"\n  Logs are in {log.relative_to(ROOT)}. Ctrl-C ends everything.", flush=True)


if __name__ == "__main__":
    with suppress(BrokenPipeError):
        main()
