"""Run the model server, and print how long each part of its start took, as JSON.

    python -m benchmarks.cold_start_server STARTED FLAGS…

STARTED is the moment on time.monotonic's clock at which the parent started this process.
"""

import json
import os
import sys
import time

started = float(sys.argv.pop(1))
seconds = {"process": time.monotonic() - started}


def timed(part: str, function):
    """Return `function`, which adds its seconds to a part."""

    def call(*arguments, **options):
        begun = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            seconds[part] = seconds.get(part, 0) + time.monotonic() - begun

    return call


def main() -> None:
    """Take the time of the server's own functions, then run it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # these three as model_server.__main__ does
    os.environ["TF_OVERRIDE_GLOBAL_THREADPOOL"] = "1"
    sys.modules.setdefault("keras", None)
    begun = time.monotonic()
    from model_server import __main__, server, tuning, warmup

    seconds["imports"] = time.monotonic() - begun
    server.fold = timed("fold", server.fold)
    server.TensorFlowEngine = timed("load", server.TensorFlowEngine)
    tuning.measure = timed("tuning", tuning.measure)
    warmup.replay = timed("warm_up", warmup.replay)
    create_server = server.create_server

    def create(*arguments, **options):
        totals = {"until_listening": time.monotonic() - started, "cpu": time.process_time()}
        print(json.dumps(seconds | totals), flush=True)
        return create_server(*arguments, **options)

    server.create_server = create
    __main__.main()


main()
