"""What there is to choose from: studies, methods, algorithms, archives."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from mmfl_jax.errors import one_line
from mmfl_jax.study import experiments


def list_(what: Annotated[Literal["studies", "methods", "algorithms", "archives"], Positional]) -> None:
    """List what there is to choose from.

    Args:
        what: to list.
    """
    from mmfl_jax import archives
    from mmfl_jax.algorithms import algorithms
    from mmfl_jax.methods import methods

    rows = {
        "studies": lambda: {name: _headline(path) for name, path in experiments().items()},
        "methods": lambda: {name: f"{method.summary} ({method.reference})" for name, method in methods().items()},
        "algorithms": lambda: {name: entry.line for name, entry in algorithms().items()},
        "archives": archives.archives,
    }[what]()
    width = max(map(len, rows), default=0)
    for name, line in rows.items():
        print(f"{name:{width}}  {line}")


def _headline(path: Path) -> str:
    """Return the first line of a Python file's docstring, or what is wrong with the file."""
    try:
        return (ast.get_docstring(ast.parse(path.read_bytes())) or "").partition("\n")[0]
    except (SyntaxError, ValueError) as error:
        return f"cannot be read: {one_line(error)}"
