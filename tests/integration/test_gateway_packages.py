"""The gateway alone: it needs no more than its image's list of packages, and no TensorFlow."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from tutorial.services import ROOT, STUBS

LISTED = ROOT / "gateway" / "requirements.txt"


def test_gateway_imports_listed_packages_only_and_never_tensorflow():
    listed = set(re.findall(r"^([a-z0-9-]+)==", LISTED.read_text(), re.M))
    unlisted = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not any(re.sub(r"[-_.]+", "-", owner).lower() in listed for owner in owners)
        and module not in ("gateway", "tensorflow", "tensorflow_serving")  # these are the stubs
    ]
    assert "keras" in unlisted and "flask" not in unlisted  # or the test shows nothing
    files = [path.relative_to(ROOT) for path in Path(ROOT, "gateway").rglob("[a-z]*.py")]
    modules = [".".join(file.with_suffix("").parts) for file in files]
    modules = [name for name in modules if name != "gateway.gunicorn.conf"]
    code = (
        "import importlib, sys; sys.modules.update(dict.fromkeys(sys.argv[1].split(',')));"
        "[importlib.import_module(name) for name in sys.argv[2].split(',')];"
        "import gunicorn.app.wsgiapp, gunicorn.workers.gthread;"
        "print([name for name in sys.modules if 'tensorflow.py' in name])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, ",".join(unlisted), ",".join(modules)],
        env=os.environ | {"PYTHONPATH": str(STUBS)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
