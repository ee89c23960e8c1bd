"""Stands in for the docker command: understands just what the lessons type, and runs it here.

`docker run … tensorflow/serving` starts this project's model server with what the container would
see: the volume's folder under /models/MODEL_NAME, its port 8500 on the published port.
"""

import argparse
import os
import sys

from tutorial.services import SERVING_IMAGE


def main() -> None:
    """Answer `docker info`, and run `docker run`; any flag it does not know is an error."""
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
    args = parser.parse_args()
    if args.command == "info":
        return
    published, inside = args.port.split(":")
    folder, place = args.volume.split(":")
    variable, name = args.environment.split("=")
    expected = (SERVING_IMAGE, "8500", f"/models/{name}", "MODEL_NAME")
    assert (args.image, inside, place, variable) == expected
    flags = [f"--port={published}", f"--model_name={name}", f"--model_base_path={folder}"]
    os.execv(sys.executable, [sys.executable, "-m", "model_server", *flags])


if __name__ == "__main__":
    main()
