"""Stands in for the docker command: understands just what the lessons type, and runs it here.

`docker run … tensorflow/serving` starts this project's model server with what the container would
see: the volume's folder under /models/MODEL_NAME, its port 8500 on the published port.
`docker compose … up` runs this project's two servers, the gateway on the published port.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

from tutorial.processes import free_port
from tutorial.services import (
    ROOT,
    SERVING_IMAGE,
    model_server_command,
    start_gateway,
    start_model_server,
)


def main() -> None:
    """Do what one of the commands does; any flag that it does not know is an error."""
    parser = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info")
    run = commands.add_parser("run", allow_abbrev=False)
    run.add_argument("--rm", action="store_true", required=True)
    run.add_argument("--init", action="store_true", required=True)
    run.add_argument("-p", dest="port", required=True)
    run.add_argument("-v", dest="volume", required=True)
    run.add_argument("-e", dest="environment", required=True)
    run.add_argument("image")
    compose = commands.add_parser("compose", allow_abbrev=False)
    compose.add_argument("--project-name")
    actions = compose.add_subparsers(dest="action", required=True)
    actions.add_parser("version")
    actions.add_parser("down")
    up = actions.add_parser("up", allow_abbrev=False)
    up.add_argument("--build", action="store_true", required=True)
    up.add_argument("--scale", required=True)
    args = parser.parse_args()
    if args.command == "run":
        run_serving(args)
    elif args.command == "compose" and args.action == "up":
        compose_up()


def run_serving(args: argparse.Namespace) -> None:
    """Become the model server."""
    published, inside = args.port.split(":")
    folder, place = args.volume.split(":")
    variable, name = args.environment.split("=")
    expected = (SERVING_IMAGE, "8500", f"/models/{name}", "MODEL_NAME")
    assert (args.image, inside, place, variable) == expected
    flags = [f"--port={published}", f"--model_name={name}", f"--model_base_path={folder}"]
    os.execv(sys.executable, [sys.executable, "-m", "model_server", *flags])


def compose_up() -> None:
    """Run both tiers, the gateway on the port that compose.yaml would publish, until the end."""
    assert Path("compose.yaml").exists() and os.environ["MODEL_TARGET"]
    folder, port = ROOT / "models" / os.environ["MODEL_NAME"], free_port()
    with (
        start_model_server("model", model_server_command(folder, port), port),
        start_gateway(
            int(os.environ["GATEWAY_PORT"]), model_port=port, contract=folder / "contract.json"
        ),
    ):
        signal.pause()


if __name__ == "__main__":
    main()
