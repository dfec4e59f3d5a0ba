"""Study files: Python that assigns a study, found by name or by path; what is wrong with one is said with its line."""

from __future__ import annotations

import ast
import importlib.util
import re
import traceback
from pathlib import Path

from mmfl_jax.errors import UserError
from mmfl_jax.options import OptionError, UnknownOption, shown
from mmfl_jax.study.study import Study

_ASSIGNED = re.compile(rb"^study\s*[:=]", re.MULTILINE)


def experiments() -> dict[str, Path]:
    """Return the studies at hand by name: of ``./experiments``, and those that come with the package."""
    here = Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    for folder in (here / "experiments", here.parent / "experiments", Path.cwd() / "experiments"):
        for path in sorted(folder.glob("*.py")):
            # Editors leave links and locks beside a file, with names that begin with a point.
            if not path.name.startswith(".") and path.is_file() and _ASSIGNED.search(path.read_bytes()):
                found[path.stem] = path
    return found


def load_study(reference: str) -> Study:
    """Return a study by its name in ``experiments/`` or by the path of its file.

    Raises:
      UserError: when there is none, the file has no ``study``, or it fails; then with the file's line.
    """
    path = Path(reference) if reference.endswith(".py") else experiments().get(reference)
    if path is None or not path.is_file():
        known = ", ".join(experiments()) or "none"
        raise UserError(
            f"study {reference!r} is unknown; one of {known}, or the path of a .py file that assigns `study`"
        )
    spec = importlib.util.spec_from_file_location(f"mmfl_jax_study_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        # Of the file itself, or of one that it imports; a file that is not UTF-8 is one too.
        raise UserError(f"{error.filename or path}, line {error.lineno or 1}: {error.msg}") from error
    except (Exception, SystemExit) as error:
        raise UserError(_told(path, error)) from error
    if not isinstance(getattr(module, "study", None), Study):
        raise UserError(f"{path} assigns no `study = Study.of(...)`")
    return module.study


def _told(path: Path, error: BaseException) -> str:
    """Return an error of a study file as one line that names the file's."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    line = next((number for number in reversed(lines) if number), 1)
    if isinstance(error, OptionError | UnknownOption):
        line = _keyword_line(path, error.name, line)
    if isinstance(error, OptionError):
        what = f"{error.name}={shown(error.value)}{error.fault}"
    elif isinstance(error, UserError):
        what = str(error)
    elif isinstance(error, SystemExit):
        what = "a study file must not leave Python (SystemExit); it only assigns `study`"
    else:
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"{path}, line {line}: {' '.join(what.split())}"


def _same(filename: str, path: Path) -> bool:
    return Path(filename).absolute() == path.absolute()


def _keyword_line(path: Path, name: str, line: int) -> int:
    """Return the line of the keyword ``name`` in the call that spans ``line``, or ``line`` where there is none."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or line):
            for keyword in node.keywords:
                if keyword.arg == name:
                    return keyword.lineno
    return line
