"""Copy the gRPC stubs the gateway needs out of the pinned wheels, without TensorFlow.

`import tensorflow_serving.apis.predict_pb2` imports all of TensorFlow: the generated files sit
inside its package, whose `__init__` loads the runtime. The files themselves need nothing but
protobuf. This step follows their imports from the two services down, and writes them into a folder
of their own with empty packages around them. With that folder first on PYTHONPATH the same import
takes a fraction of a second.

    python -m tutorial.build_stubs build/stubs                     from the installed packages
    python -m tutorial.build_stubs build/stubs --wheels downloads  from wheels, installed nowhere
"""

import argparse
import re
import shutil
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOTS = (
    "tensorflow_serving/apis/prediction_service_pb2_grpc.py",
    "tensorflow_serving/apis/model_service_pb2_grpc.py",
)
IMPORT = re.compile(r"^from ([\w.]+) import (\w+_pb2)\b", re.MULTILINE)
GENERATED = re.compile(r"_pb2(_grpc)?\.py$")


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


def unpack(wheels: Path, target: Path) -> None:
    """Extract the generated files, and nothing else, of all wheels in a folder into `target`."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            archive.extractall(target, [name for name in names if GENERATED.search(name)])


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
        "--wheels",
        type=Path,
        help="folder holding both wheels (default: take the files that this Python has installed)",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as unpacked:
        if args.wheels:
            unpack(args.wheels, Path(unpacked))
        source = Path(unpacked) if args.wheels else Path(sysconfig.get_path("purelib"))
        try:
            number = build(source, args.target)
        except FileNotFoundError as error:
            missing = Path(error.filename).relative_to(source)
            sys.exit(f"build_stubs: {missing} is missing: install, or download, the pinned wheels")
    print(f"{number} generated files in {args.target}")


if __name__ == "__main__":
    main()
