"""Measure what the gateway costs, against the work on the picture that cannot be left out.

    python -m benchmarks.gateway [--rounds=9] [--requests=400] [--output=FILE.json]

This floor is what the course's gateway does with the same picture before it asks the model: decode,
resize and scale by keras-image-helper, and the bytes of the array. The gateway is measured as it is
deployed, under gunicorn, in front of a model that does almost nothing. Both are measured in turn,
in processor time, so that other work on the machine disturbs both alike.
"""

import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import requests

from benchmarks import pictures
from benchmarks.common import PICTURE, parser, ratio, run, spread
from benchmarks.models import save_models
from benchmarks.pictures import cpu_of
from tutorial import services
from tutorial.load import form
from tutorial.processes import free_port, free_ports

MODELS = {"": "mean", " as float32": "mean_float32"}  # by what is added to a figure's name
AIMS = {
    "upload": "at most 1.5 times the floor, in processor time",
    "url": "at most 1.8 times the floor",
    "phone": "at most 0.25 of decoding all 12 megapixels",
}


def measure_requests(folder: Path, rounds: int, count: int) -> dict:
    """Compare a request's processor time with the floor: uploads and URLs.

    The gateway sends uint8 pixels to a model that scales them, and scaled float32 ones to another.
    It starts again for each round: of two processes that do the same, one may take a tenth more.
    """
    picture_port, *model_ports = free_ports(1 + len(MODELS))
    origin = f"http://127.0.0.1:{picture_port}/"
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        stack.enter_context(services.start_picture_server(PICTURE.parent, picture_port))
        for name, port in zip(MODELS.values(), model_ports, strict=True):
            command = services.model_server_command(folder / name, port)
            stack.enter_context(services.start_model_server(name, command, port))
        for _ in range(rounds):
            found.setdefault("floor", []).append(pictures.measure("floor", count)["floor"])
            for (suffix, name), port in zip(MODELS.items(), model_ports, strict=True):
                settings = {"model_port": port, "allowed_origins": origin}
                costs = measure_gateway(folder / name, origin + PICTURE.name, count, settings)
                for way, ms in costs.items():
                    found.setdefault(way + suffix, []).append(ms)
    ratios = {
        f"{name} to floor": ratio(values, found["floor"])
        for name, values in found.items()
        if name != "floor"
    }
    return {"cpu_ms": {name: spread(values) for name, values in found.items()}} | ratios


def measure_gateway(model: Path, url: str, count: int, settings: dict) -> dict[str, float]:
    """Return the milliseconds of processor time for an upload and for a URL."""
    port = free_port()
    body, content_type = form(PICTURE.read_bytes())
    with (
        services.start_gateway(port, contract=model / "contract.json", **settings) as server,
        requests.Session() as session,
    ):
        worker = psutil.Process(server.supervisor.pid).children(recursive=True)[-1]

        def clock() -> float:
            return sum(worker.cpu_times()[:2])

        def ask(**content: object) -> None:
            predict = f"http://127.0.0.1:{port}/predict"
            session.post(predict, timeout=60, **content).raise_for_status()

        upload = {"data": body, "headers": {"Content-Type": content_type}}
        return {
            "upload": cpu_of(clock, partial(ask, **upload), count),
            "url": cpu_of(clock, partial(ask, json={"url": url}), count),
        }


def measure_phone_photos(rounds: int) -> dict:
    """Compare a photo of 12 megapixels, decoded as the gateway does, with decoding all of it.

    Both use memory as the gateway's process does.
    """
    found = [pictures.measure("phone", 5, **services.MALLOC) for _ in range(rounds)]
    return {name: spread([one[name] for one in found]) for name in found[0]}


def main() -> None:
    """Measure everything and write it."""
    arguments = parser(__doc__, "gateway", rounds=9, seconds=0)
    arguments.add_argument("--requests", type=int, default=400, help="of one measurement")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        save_models(Path(name), *MODELS.values())
        steps = {
            "requests": lambda: measure_requests(Path(name), options.rounds, options.requests),
            "phone": lambda: measure_phone_photos(options.rounds),
        }
        run(steps, options, requests_of_a_measurement=options.requests, aims=AIMS)


if __name__ == "__main__":
    main()
