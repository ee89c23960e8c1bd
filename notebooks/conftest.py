"""How nbval runs and compares the lessons."""

import os
from pathlib import Path

# Lessons that run at once start servers of the same name: each worker has a folder for their logs.
worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
os.environ["TUTORIAL_LOGS"] = str(Path(__file__).resolve().parents[1] / "build/logs" / worker)


def pytest_collection_modifyitems(items):
    """Leave out of the comparison what a cell prints to stderr: warnings, progress bars."""
    for notebook in {item.parent for item in items}:
        notebook.skip_compare += ("stderr",)
