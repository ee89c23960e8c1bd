"""Stands in for the docker command: understands just what the lessons type, and runs it here.

`docker run … tensorflow/serving` starts this project's model server with what the container would
see: the volume's folder under /models/MODEL_NAME, its port 8500 on the published port.
`docker compose … up` runs this project's two servers, the gateway on the published port.
"""

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


def main(words: list[str]) -> None:
    """Do what one of the commands does; one that it does not know is an error."""
    match words:
        case ["info"] | ["compose", "version"] | ["compose", "--project-name", _, "down"]:
            pass
        case ["images" | "kill", *_] | ["compose", "--project-name", _, "ps", *_]:
            print(words[0], "is shown here")
        case ["run", "--rm", "--init", "-p", ports, "-v", volume, "-e", environment, image]:
            published, inside = ports.split(":")
            folder, place = volume.split(":")
            variable, name = environment.split("=")
            expected = (SERVING_IMAGE, "8500", f"/models/{name}", "MODEL_NAME")
            assert (image, inside, place, variable) == expected
            flags = [f"--port={published}", f"--model_name={name}", f"--model_base_path={folder}"]
            os.execv(sys.executable, [sys.executable, "-m", "model_server", *flags])
        case ["compose", "--project-name", _, "up", "--build", "--scale", _]:
            compose_up()
        case _:
            sys.exit(f"the fake does not know: {words}")


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
    main(sys.argv[1:])
