"""Arguments of a command, parsed by tyro; whatever is wrong with them is one line."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import typing
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from mmfl_jax.errors import UserError
from mmfl_jax.options import flag, nearest, read, shown
from mmfl_jax.study import OPTIONS

T = TypeVar("T")
_REGISTRY = ConstructorRegistry()
# What draws tyro's boxes, and how they end.
_FRAME, _FOOTER = re.compile(r"[╭╮╰╯│─]+|-{4,}"), "For full helptext"


@_REGISTRY.primitive_rule
def _number_or_choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """Hand a text that is no number, or none of the choices, to the option itself, which refuses it by its name."""
    kind = info.type
    choices = typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
    if not choices and kind not in (int, float):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(map(str, choices))}}}" if choices else kind.__name__.upper(),
        instance_from_str=lambda texts: read(kind, texts[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value)],
    )


def parse(target: Callable[..., T], prog: str, arguments: Sequence[str], default: Any = None) -> T:
    """Call a function or make a dataclass with arguments of the command line.

    Args:
      target: whose parameters or fields are the flags.
      prog: what help and errors call the command.
      arguments: of the user.
      default: options with the values of flags that are not given.

    Raises:
      UserError: for an unknown flag, a value that is missing or of another type, or something that no flag stands by.
    """
    # Only options tell themselves what they take.
    given: dict[str, Any] = {} if default is None else {"default": default, "registry": _REGISTRY}
    said = io.StringIO()
    found: Any = _called(target)
    try:
        with contextlib.redirect_stderr(said):
            made, surplus = tyro.cli(found, prog=prog, args=list(arguments), return_unknown_args=True, **given)
    except SystemExit as left:
        if not left.code:
            raise
        told = _unboxed(said.getvalue())
        if told.startswith("Missing from"):
            told = f"{prog.removeprefix('mmfl-jax ')} needs {', '.join(_required(target))}"
        raise UserError(told or f"{prog}: these arguments are not understood") from None
    if surplus:
        raise UserError(_unknown(prog.removeprefix("mmfl-jax "), surplus, _flags(target)))
    return made() if found is not target else made


def _called(target: Callable[..., T]) -> Any:
    """Return a function that only keeps its arguments: it is called when all of them are understood."""
    if inspect.isclass(target):
        return target

    def kept(*args: Any, **values: Any) -> Callable[[], T]:
        return lambda: target(*args, **values)

    kept.__signature__ = inspect.signature(target)  # type: ignore[attr-defined]
    kept.__annotations__ = typing.get_type_hints(target, include_extras=True)
    kept.__doc__, kept.__name__ = target.__doc__, target.__name__
    return kept


def _flags(target: Any) -> list[str]:
    names = inspect.signature(target).parameters
    own = [name for name in names if name != "study"]
    if not inspect.isclass(target):
        groups = filter(dataclasses.is_dataclass, typing.get_type_hints(target).values())
        own += [field.name for group in groups for field in dataclasses.fields(group)]
    return [flag(name) for name in (*own, *(OPTIONS if "study" in names else ()), "help")]


def _required(target: Any) -> list[str]:
    """Return what has to be given, as a user writes it."""
    hints, found = typing.get_type_hints(target, include_extras=True), []
    for name, parameter in inspect.signature(target).parameters.items():
        if parameter.default is parameter.empty:
            kind = typing.get_args(hints[name])
            choices = typing.get_args(kind[0]) if kind else ()
            positional = "|".join(map(str, choices)) or name.upper()
            found.append(positional if kind else f"{flag(name)} {name.upper()}")
    return found


def _unknown(prog: str, surplus: Sequence[str], known: Iterable[str]) -> str:
    first = next((text for text in surplus if text.startswith("-")), surplus[0])
    name = first.partition("=")[0]
    if not first.startswith("-"):
        return f"{prog}: {shown(first)} belongs to no option; they are written --option value"
    return f"{prog}: {name} is unknown; did you mean {nearest(name, known)}?"


def _unboxed(text: str) -> str:
    """Return what a box says, on one line and without its title."""
    body = _FRAME.sub(" ", text.partition("\n")[2].partition(_FOOTER)[0])
    return " ".join(body.split())
