"""Compare this project's two tiers with servers that have the model in their own process.

    python -m benchmarks.peers [--rounds=5] [--seconds=6] [--only …] [--output=FILE.json]

The peers (benchmarks/peers/) get the same pictures from the same client, and make the same pixels
and scores. They run in a separate environment, build/peers. Everything shares one machine, the
load included. In each round, every server starts again, one after the other, so that a machine that
is slow for a while is slow for all. Servers in Python run with all threads for an operation of
TensorFlow, and with one.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import requests
from PIL import Image

from benchmarks.common import CALLERS, PICTURE, parser, ratio, run, spread
from benchmarks.models import WEIGHTS, save_models
from tutorial import ROOT, services
from tutorial.load import Result, form, measure
from tutorial.processes import Server, free_port, free_ports, start_server

FOLDER = ROOT / "benchmarks/peers"
HOME = ROOT / "build/peers"  # their environment
IDLE = 10  # seconds; a process counts its time in hundredths
BATCHES = ("--enable_batching", f"--batching_parameters_file={ROOT / 'serving/batching.txt'}")
TOLERANCE = 0.001  # of the largest score: bfloat16 differs by more
INPUTS = {"starter": "input_8", "xception": "x"}  # the course's gateway has the name in its code
AIMS = {
    "16 callers": "at least 1.0 of the best peer; of Xception 1.05",
    "1 caller": "at least 0.95 of the best peer",
    "phone photos": "at least 2.0 of the best peer, p99 below a second",
    "64 callers": "at least 0.95 of the answers to 16 callers",
    "idle": "less than 0.005 of a core",
}

Running = tuple[str, list[Server]]  # the URL, and the processes behind it
Start = Callable[[Path], AbstractContextManager[Running]]


def install() -> None:
    """Make the environment of the peers, if it is not there."""
    wanted, made = (FOLDER / "requirements.txt").read_text(), HOME / "made.txt"
    if not made.exists() or made.read_text() != wanted:
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", HOME], check=True)
        python = f"--python={HOME / 'bin/python'}"
        packages = f"--requirements={FOLDER / 'requirements.txt'}"
        subprocess.run([uv, "pip", "install", "--quiet", python, packages], check=True)
        made.write_text(wanted)


@contextmanager
def two_tiers(model: Path, *flags: str) -> Iterator[Running]:
    """Run model server and gateway as `make run` does, the model server with these flags."""
    model_port, port = free_ports(2)
    command = [*services.model_server_command(model, model_port), *flags]
    contract = model / "contract.json"
    with (
        services.start_model_server("peers-model", command, model_port) as server,
        services.start_gateway(
            port, contract=contract, model_port=model_port, name="peers-gateway"
        ) as gateway,
    ):
        yield f"http://127.0.0.1:{port}/predict", [server, gateway]


@contextmanager
def peer(model: Path, name: str, *, threads: int = 0, **env: str) -> Iterator[Running]:
    """Run a server of benchmarks/peers, with `threads` for an operation (0: all)."""
    port = free_port()
    command = {
        "bentoml": ["bentoml", "serve", "bentoml_server:Classifier"],
        "course": ["gunicorn", f"--bind=127.0.0.1:{port}", "course_server:app"],
    }.get(name, ["python", f"{name}_server.py"])
    url = f"http://127.0.0.1:{port}/predict"
    with start_server(
        f"peers-{name}",
        [str(HOME / "bin" / command[0]), *command[1:]],
        ready=lambda: scores(url) is not None,
        log=services.LOGS / f"peers-{name}.log",
        env={
            "MODEL": str(model / "1"),
            "THREADS": str(threads),
            "PORT": str(port),
            "PATH": f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "BENTOML_DO_NOT_TRACK": "true",
            **env,
        },
        cwd=FOLDER,
        timeout=180,
    ) as server:
        yield url, [server]


@contextmanager
def course(model: Path) -> Iterator[Running]:
    """Run a gateway as the course writes it in front of this project's model server."""
    port = free_port()
    command = services.model_server_command(model, port)
    address = {"MODEL_ADDRESS": f"127.0.0.1:{port}", "INPUT": INPUTS[model.name]}
    with (
        services.start_model_server("peers-model", command, port) as server,
        peer(model, "course", MODEL_NAME=model.name, **address) as (url, [gateway]),
    ):
        yield url, [server, gateway]


SERVERS: dict[str, Start] = {
    "two tiers": lambda model: two_tiers(model, *BATCHES),
    "fastapi": partial(peer, name="fastapi"),
    "fastapi, 1 thread": partial(peer, name="fastapi", threads=1),
    "litserve": partial(peer, name="litserve"),
    "litserve, 1 thread": partial(peer, name="litserve", threads=1),
    "bentoml": partial(peer, name="bentoml"),
    "course": course,
}
OPENVINO: dict[str, Start] = {  # all in float32, as this project's server computes
    "two tiers": lambda model: two_tiers(model, "--runtime=openvino"),
    "fastapi": partial(peer, name="fastapi", PRECISION="f32"),
    "litserve": partial(peer, name="litserve", PRECISION="f32"),
}


def scores(url: str) -> list[float] | None:
    """Return the scores of PICTURE, or None while the server does not answer."""
    body, content_type = form(PICTURE.read_bytes())
    try:
        answer = requests.post(url, body, headers={"Content-Type": content_type}, timeout=30)
    except requests.ConnectionError:
        return None
    return list(answer.json().values()) if answer.ok else None


def check_scores(found: list[float], expected: list[float]) -> None:
    """Raise AssertionError where a server computes something else, or less exactly.

    A model with random weights has scores of less than 0.001: the largest is the measure.
    """
    largest = max(map(abs, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * largest)


def phone_photo() -> bytes:
    """Return a JPEG of 12 megapixels."""
    file = io.BytesIO()
    with Image.open(PICTURE) as image:
        image.resize((3000, 4000), Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def compare(
    servers: dict[str, Start],
    model: Path,
    cases: dict[str, tuple[bytes, int]],
    rounds: int,
    seconds: float,
) -> dict:
    """Measure the `cases` (a picture and the number of callers) with each server in turn."""
    results: dict[str, dict[str, list[Result]]] = {
        case: {name: [] for name in servers} for case in cases
    }
    expected = None
    for _ in range(rounds):
        for name, start in servers.items():
            with start(model) as (url, _):
                found = scores(url)
                expected = expected or found
                check_scores(found, expected)
                for case, (picture, callers) in cases.items():
                    body, content_type = form(picture)
                    ask = partial(measure, url, body, callers=callers, content_type=content_type)
                    ask(seconds=1)  # warms up
                    results[case][name].append(ask(seconds=seconds))
    return {case: beside_the_best(by_server) for case, by_server in results.items()}


def beside_the_best(by_server: dict[str, list[Result]]) -> dict:
    """Compare the first server, this project's, with the best of the others."""
    rates = {name: [each.answered for each in rounds] for name, rounds in by_server.items()}
    late = {name: [each.percentile(99) for each in rounds] for name, rounds in by_server.items()}
    mine, *others = rates
    best = max(others, key=lambda name: median(rates[name]))
    return {
        "answers_per_s": {name: spread(values) for name, values in rates.items()},
        "p99": {name: spread(values) for name, values in late.items()},
        "best peer": best,
        "ratio": ratio(rates[mine], rates[best]),
    }


def idle(servers: dict[str, Start], model: Path, rounds: int) -> dict:
    """Return the share of a core that each server uses without requests."""
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, start in servers.items():
            with start(model) as (url, processes):
                scores(url)
                time.sleep(1)
                before = sum(process.cpu_seconds() for process in processes)
                time.sleep(IDLE)
                used = sum(process.cpu_seconds() for process in processes) - before
                shares.setdefault(name, []).append(used / IDLE)
    return {name: spread(values) for name, values in shares.items()}


def main() -> None:
    """Measure everything and write it."""
    options = parser(__doc__, "peers", rounds=5, seconds=6).parse_args()
    install()
    usual = PICTURE.read_bytes()
    many = {"16 callers": (usual, CALLERS)}
    all_cases = many | {
        "1 caller": (usual, 1),
        "64 callers": (usual, 64),
        "phone photos": (phone_photo(), CALLERS),
    }
    with tempfile.TemporaryDirectory() as name:
        save_models(Path(name), "xception")
        starter, xception = ROOT / "models/starter", Path(name) / "xception"
        measured = partial(compare, rounds=options.rounds, seconds=options.seconds)
        steps = {
            "starter": lambda: measured(SERVERS, starter, all_cases),
            "idle": lambda: idle(SERVERS, starter, options.rounds),
            "xception": lambda: measured(SERVERS, xception, many),
            "xception with OpenVINO": lambda: measured(OPENVINO, xception, many),
        }
        run(steps, options, weights=WEIGHTS, aims=AIMS)


if __name__ == "__main__":
    main()
