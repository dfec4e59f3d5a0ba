"""Markdown that the code writes about itself: algorithms, methods, archives, studies, options and commands."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from roles import plain

import mmfl_jax
from mmfl_jax import archives as archive_kinds
from mmfl_jax.algorithms import Entry
from mmfl_jax.algorithms import algorithms as known_algorithms
from mmfl_jax.cli import COMMANDS, STUDY_COMMANDS, USAGE
from mmfl_jax.cli import main as command_line
from mmfl_jax.cli.listing import _headline
from mmfl_jax.methods import methods as known_methods
from mmfl_jax.options import flag
from mmfl_jax.study import Study, experiments


def algorithms(kind: str) -> str:
    """Return the ``algorithms`` or the ``modifiers``, a section each: what its docstring says."""
    modifies = {"algorithms": False, "modifiers": True}[kind]
    chosen = {name: entry for name, entry in known_algorithms().items() if entry.modifies == modifies}
    rows = [
        (f"[`{name}`](#{name})", _without_prefix(entry.summary), _options_of(entry)) for name, entry in chosen.items()
    ]
    sections = [f"### {name}\n\n{_docstring(entry.make)}" for name, entry in chosen.items()]
    return _table(("name", "what it does", "options"), rows) + "\n\n" + "\n\n".join(sections)


def methods() -> str:
    """Return the table of methods and of modules that are joined to them."""
    rows = [
        (f"`{'+' * (method.base is None)}{name}`", method.summary.removeprefix("module: "), method.reference)
        for name, method in known_methods().items()
    ]
    return _table(("method", "what clients learn with", "source"), rows)


def archives() -> str:
    """Return the table of kinds of archives."""
    rows = [line.split("  ", 1) for line in archive_kinds.archives().values()]
    return _table(("reference", "what it opens"), [(f"`{form}`", what.strip()) for form, what in rows])


def studies() -> str:
    """Return the table of studies that come with the package."""
    return _table(("study", "what it is"), [(f"`{name}`", _headline(path)) for name, path in experiments().items()])


def options() -> str:
    """Return every option of a study in its group, with type, default and meaning."""
    return "\n\n".join(_groups(Study()))


def command(name: str) -> str:
    """Return the help of a command; of those on studies without the study's own options."""
    arguments = [name, "quickstart", "--help"] if name in STUDY_COMMANDS else [name, "--help"]
    os.environ["COLUMNS"] = "88"
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
        command_line(arguments)
    own = re.split(r"^\W*study options", said.getvalue(), flags=re.MULTILINE)[0]
    return f"```text\n{own.rstrip()}\n```"


def commands() -> str:
    """Return the usage of the command line, and the help of every command."""
    sections = [f"## {name}\n\n{command(name)}" for name in (*STUDY_COMMANDS, *COMMANDS)]
    return f"```text\n{USAGE}\n```\n\n" + "\n\n".join(sections)


def version() -> str:
    """Return the version of the package."""
    return f"These pages are of mmfl_jax {mmfl_jax.__version__}."


MAKERS: dict[str, Callable[..., str]] = {
    maker.__name__: maker for maker in (algorithms, methods, archives, studies, options, command, commands, version)
}


def _groups(group: Any, depth: int = 2) -> Iterator[str]:
    told = _field_docs(type(group))
    rows = []
    inner = []
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            inner.append(value)
        else:
            rows.append((f"`{flag(field.name)}`", f"`{value!r}`" if value != "" else "", told[field.name]))
    title = (inspect.getdoc(type(group)) or "").partition("\n")[0].rstrip(".")
    title = "Study" if type(group) is Study else title.partition(":")[0]
    yield f"{'#' * depth} {title}\n\n" + _table(("option", "default", "meaning"), rows)
    for value in inner:
        yield from _groups(value, 2 if type(group) is Study else 3)


def _field_docs(group: type) -> dict[str, str]:
    """Return the docstring under each field of a class."""
    body = ast.parse(inspect.getsource(group)).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: " ".join(ast.literal_eval(told.value).split())
        for field, told in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(told, ast.Expr)
    }


def _options_of(entry: Entry) -> str:
    return " ".join(f"`{name}={value}`" for name, value in entry.options.items())


def _without_prefix(summary: str) -> str:
    """Return a summary without the name before its colon, which stands beside it."""
    head, colon, rest = summary.partition(": ")
    return rest[:1].upper() + rest[1:] if colon and len(head.split()) <= 2 else summary


_SECTION = re.compile(r"^(Args|References):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)


def _docstring(make: Callable[..., Any]) -> str:
    """Return a docstring as Markdown: options as a list, papers as a line."""
    text = plain(inspect.getdoc(make) or "").replace("``", "`")

    def section(match: re.Match[str]) -> str:
        lines = _unwrapped(match[2])
        if match[1] == "References":
            return f"*Paper:* {' '.join(lines)}\n\n"
        items = (line.partition(": ") for line in lines)
        return "\n".join(f"- `{name}`: {what}" for name, _, what in items) + "\n\n"

    return _SECTION.sub(section, text).rstrip()


def _unwrapped(text: str) -> list[str]:
    """Return the items of a section, each on one line: what is indented further goes on."""
    items: list[str] = []
    lines = [line for line in text.splitlines() if line.strip()]
    first = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    for line in lines:
        if items and len(line) - len(line.lstrip()) > first:
            items[-1] += " " + line.strip()
        else:
            items.append(line.strip())
    return items


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
