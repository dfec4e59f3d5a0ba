"""Run the notebooks of experiments/notebooks/ as a user would: on the installed package, in an empty folder.

Command: python .ci/notebooks.py [NAME ...] [--write] [--keep DIR]
  --write makes the .ipynb of the .py again, without outputs; --keep DIR keeps the notebooks that ran, pictures and all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"


def cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Return kind and text of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def write(source: Path) -> None:
    """Write the notebook of a source, without outputs and with the same ids of cells each time."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    nbformat.write(notebook, source.with_suffix(".ipynb"), version=nbformat.NO_CONVERT)


def check_pair(source: Path) -> None:
    """Refuse a notebook that is not that of its source."""
    path = source.with_suffix(".ipynb")
    if not path.exists() or cells(nbformat.read(path, 4)) != cells(jupytext.read(source)):
        sys.exit(f"{path} is not that of {source.name}; python .ci/notebooks.py --write makes it again")


def execute(source: Path, keep: Path | None) -> bool:
    """Run a notebook in an empty folder, say how long it took, and return whether it went through."""
    notebook, begin, before = nbformat.read(source.with_suffix(".ipynb"), 4), time.perf_counter(), os.times()
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": folder}})
        try:
            client.execute()
        except CellExecutionError as error:
            print(f"{source.stem}: failed\n{error}", file=sys.stderr)
            return False
        finally:
            if keep is not None:
                nbformat.write(notebook, keep / f"{source.stem}.ipynb")
    pictures = sum("image/png" in out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", ()))
    wall, now = time.perf_counter() - begin, os.times()
    worked = now.children_user + now.children_system - before.children_user - before.children_system
    print(f"{source.stem}: {wall:.0f} s, {worked:.0f} s of processor time, {pictures} pictures", flush=True)
    return pictures > 0


def main() -> None:
    """Write or run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of notebooks; all by default")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    sources = [FOLDER / f"{name}.py" for name in options.names] or sorted(FOLDER.glob("*.py"))
    for source in sources:
        if not source.exists():
            sys.exit(f"{source} is not there; one of {', '.join(sorted(path.stem for path in FOLDER.glob('*.py')))}")
        if options.write:
            write(source)
        check_pair(source)
    if not options.write:
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
        os.environ.pop("PYTHONPATH", None)  # the installed package, whatever lies here
        ran = [execute(source, options.keep) for source in sources]
        sys.exit(0 if all(ran) else 1)


if __name__ == "__main__":
    main()
