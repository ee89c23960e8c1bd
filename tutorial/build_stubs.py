"""Copy the gRPC stubs the gateway needs out of the pinned wheels, without TensorFlow.

`import tensorflow_serving.apis.predict_pb2` imports all of TensorFlow: the generated files sit
inside its package, whose `__init__` loads the runtime. The files themselves need nothing but
protobuf. This step follows their imports from the two services down, and writes them into a folder
with empty packages around them. With that folder first on PYTHONPATH the same import
takes a fraction of a second.

    python -m tutorial.build_stubs build/stubs                     from the installed packages
    python -m tutorial.build_stubs build/stubs --wheels downloads  from wheels, installed nowhere
"""

import argparse
import re
import shutil
import sysconfig
import tempfile
import zipfile
from pathlib import Path

ROOTS = (
    "tensorflow_serving/apis/prediction_service_pb2_grpc.py",
    "tensorflow_serving/apis/model_service_pb2_grpc.py",
)
IMPORT = re.compile(r"^from ([\w.]+) import (\w+_pb2)\b", re.MULTILINE)


def needed_files(source: Path) -> list[str]:
    """Return the paths, below `source`, of all generated files that the services import."""
    found: list[str] = []
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += [
                f"{package.replace('.', '/')}/{module}.py"
                for package, module in IMPORT.findall((source / name).read_text())
                if not package.startswith("google.")  # protobuf brings its own
            ]
    return found


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


def build_from_wheels(wheels: Path, target: Path) -> int:
    """Write the stubs in all wheels of a folder to `target`; return their number."""
    with tempfile.TemporaryDirectory() as unpacked:
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                names = [name for name in archive.namelist() if "_pb2" in name]
                archive.extractall(unpacked, names)
        return build(Path(unpacked), target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="folder to write, replaced if it exists")
    parser.add_argument("--wheels", type=Path, help="a folder with both wheels")
    args = parser.parse_args()
    if args.wheels:
        number = build_from_wheels(args.wheels, args.target)
    else:
        number = build(Path(sysconfig.get_path("purelib")), args.target)
    print(f"{number} generated files in {args.target}")
