"""Support for the notebooks: conversion, local servers, load, plots, and the make commands."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# No proxy can reach the servers of this machine.
os.environ["no_proxy"] = ",".join(
    [os.environ.get("no_proxy") or os.environ.get("NO_PROXY", ""), "127.0.0.1", "localhost"]
).lstrip(",")


class TutorialError(Exception):
    """An error that the reader can fix; the message says what is wrong and what to do."""


@contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """End the process with one line that says why, if the block of `command` cannot go on."""
    try:
        yield
    except TutorialError as error:
        sys.exit(f"{command}: {error}")
    except OSError as error:
        if not error.filename:
            raise
        sys.exit(f"{command}: {error.filename}: {error.strerror}. Does this folder belong to you?")
    except KeyboardInterrupt:
        print("\nStopped.")
