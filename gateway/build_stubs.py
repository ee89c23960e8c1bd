"""Copy the gRPC stubs the gateway needs out of the installed wheels, without TensorFlow.

`import tensorflow_serving.apis.predict_pb2` imports all of TensorFlow: the generated files sit
inside its package, whose `__init__` loads the runtime. The files themselves need nothing but
protobuf. This step follows their imports from the two services down, and writes them into a folder
of their own with empty packages around them. With that folder first on PYTHONPATH the same import
takes a fraction of a second.

    python -m gateway.build_stubs build/stubs
"""

import argparse
import re
import shutil
import sys
import sysconfig
from pathlib import Path

ROOTS = (
    "tensorflow_serving/apis/prediction_service_pb2_grpc.py",
    "tensorflow_serving/apis/model_service_pb2_grpc.py",
)
IMPORT = re.compile(r"^from ([\w.]+) import (\w+_pb2)\b", re.MULTILINE)


def needed_files(source: Path) -> list[str]:
    """Paths below `source` of every generated file that the services import, sorted.

    Raises FileNotFoundError when `source` lacks one, as it does without the two wheels.
    """
    found, waiting = set(), list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        text = (source / name).read_text()
        found.add(name)
        waiting += [
            f"{package.replace('.', '/')}/{module}.py"
            for package, module in IMPORT.findall(text)
            if not package.startswith("google.")  # protobuf brings its own
        ]
    return sorted(found)


def build(source: Path, target: Path) -> int:
    """Write the stubs found below `source` to `target`, replacing what is there; their number."""
    files = needed_files(source)
    shutil.rmtree(target, ignore_errors=True)
    for name in files:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, path)
        for package in path.relative_to(target).parents[:-1]:
            (target / package / "__init__.py").touch()
    return len(files)


def main() -> None:
    """Run the step from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="folder to write, replaced if it exists")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path(sysconfig.get_path("purelib")),
        help="folder holding tensorflow and tensorflow_serving (default: this Python's packages)",
    )
    args = parser.parse_args()
    try:
        number = build(args.source, args.target)
    except FileNotFoundError as error:
        sys.exit(f"build_stubs: {error.filename} is missing: install the pinned wheels first")
    print(f"{number} generated files in {args.target}")


if __name__ == "__main__":
    main()
