"""Run notebooks with papermill; as a command, run all lessons in order.

python -m tutorial.notebooks        executed copies under build/notebooks/
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tutorial import ROOT, TutorialError, one_line_errors

EXECUTED = ROOT / "build/notebooks"


def lessons() -> list[Path]:
    """Return the numbered notebooks, in order."""
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]*-*.ipynb"))


def execute(
    notebook: Path,
    parameters: dict[str, Any] | None = None,
    output: Path | None = None,
    *,
    shutdown: str = "graceful",
) -> Path:
    """Run a notebook in its own folder; return the executed copy.

    With the `shutdown` "immediate" the kernel is killed at the end: faster, and without the line
    "KeyboardInterrupt caught in kernel" that it may print, but its atexit functions do not run.

    Raises TutorialError for a parameter that the notebook does not have, and for a cell that fails.
    The message is that of the cell if the cell raised TutorialError itself.
    """
    import papermill  # takes a second to load
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    known = papermill.inspect_notebook(notebook)
    if unknown := (parameters or {}).keys() - known.keys():
        raise TutorialError(f"{notebook.name} has no parameter {', '.join(sorted(unknown))}")
    output = output or EXECUTED / notebook.name
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Sockets in a private folder: no port that others could reach. By default all kernels name
        # their sockets alike, and two that start at once take each other's.
        with tempfile.TemporaryDirectory() as sockets:
            papermill.execute_notebook(
                notebook,
                output,
                parameters or {},
                kernel_name="python3",
                cwd=notebook.parent,
                stderr_file=sys.stderr,  # progress bars appear there
                shutdown_kernel=shutdown,
                config=Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"}),
            )
    except PapermillExecutionError as error:
        if error.ename == "TutorialError":
            raise TutorialError(error.evalue) from None
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[0]
        raise TutorialError(
            f"{notebook.name} failed with {reason} (the executed copy {output} shows where)"
        ) from None
    except DeadKernelError:
        raise TutorialError(
            f"{notebook.name} was killed: is there enough memory? (the executed copy {output}"
            " shows where)"
        ) from None
    return output


def run_cells(notebook: Path, parameters: dict[str, Any], until: str) -> dict[str, Any]:
    """Run the code cells above the heading `until` in this process; return their variables.

    That needs no kernel, so errors come at once.
    """
    variables: dict[str, Any] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if source.startswith(until):
            return variables
        if cell["cell_type"] == "code":
            exec(source, variables)
        if "parameters" in cell["metadata"].get("tags", []):
            variables |= parameters
    raise ValueError(f"{notebook.name} has no heading {until!r}")


def main() -> None:
    """Run all lessons in order; stop at the first that fails."""
    with one_line_errors("make notebooks"):
        for number, notebook in enumerate(lessons(), start=1):
            print(f"{number} of {len(lessons())}  {notebook.name}", flush=True)
            execute(notebook)
        print(f"The executed copies are in {EXECUTED.relative_to(ROOT)}/")


if __name__ == "__main__":
    main()
