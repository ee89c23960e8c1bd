"""Print the flag for TensorFlow Serving's threads that suits a model, by measuring it here.

python -m tutorial.tune starter --cpus 2
"""

import argparse
import os
import re
from pathlib import Path

from tutorial import ROOT, TutorialError, one_line_errors, services
from tutorial.model_folder import require
from tutorial.processes import free_port

MEASURED = re.compile(r": (\d+) threads? for an operation.* \((.+)\)")  # model_server's line


def main() -> None:
    """Measure models/MODEL_NAME; print what was found, and the flag."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model_name", help="a folder of models/ that lesson 01 made")
    parser.add_argument("--cpus", type=int, help="as many as the server's container gets; all")
    options = parser.parse_args()
    with one_line_errors("tutorial.tune"):
        if options.cpus is not None:
            limit_cpus(options.cpus)
        threads, figures = measure_threads(require(ROOT / "models", options.model_name))
        print(f"{options.model_name}, threads for an operation: {figures}")
        print(f"--tensorflow_intra_op_parallelism={threads}")


def limit_cpus(number: int) -> None:
    """Let this process and the servers that it starts use only `number` processors.

    Raises TutorialError if there are not as many, or the system has no such limit.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise TutorialError("--cpus needs Linux: leave it out, or measure in a container")
    usable = sorted(os.sched_getaffinity(0))
    if not 0 < number <= len(usable):
        raise TutorialError(f"--cpus={number}: this machine has 1 to {len(usable)}")
    os.sched_setaffinity(0, usable[:number])


def measure_threads(model_folder: Path) -> tuple[int, str]:
    """Return the threads that the model server chooses for a model, and what it measured.

    Raises TutorialError if it measures nothing: on one processor, without a warm-up request, or
    for a large model.
    """
    port = free_port()
    command = services.model_server_command(model_folder, port)
    with services.start_model_server("tune", command, port) as server:
        log = server.log.read_text()
    if not (found := MEASURED.search(log)):
        raise TutorialError(
            "nothing was measured: one processor needs one thread; a model needs a warm-up request"
            " (lesson 01 writes one); and one with more than 256 MB of weights is not measured"
        )
    return int(found[1]), found[2]


if __name__ == "__main__":
    main()
