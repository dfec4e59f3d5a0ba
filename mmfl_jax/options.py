"""Options: types that say their range, and frozen dataclasses of them that check themselves.

Nothing here imports JAX: an option is refused before anything heavy is loaded.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import numbers
import typing
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, dataclass_transform

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError

from mmfl_jax.errors import UserError

T = TypeVar("T")

# What travels through rounds is int32 and float32.
INT32 = 2**31 - 1
FLOAT32_TINY, FLOAT32_MAX = 1.1754943508222875e-38, 3.4028234663852886e38


class Wanted(NamedTuple):
    """Say in words what a type takes: an error ends with "must be ..."."""

    text: str


def _whole(value: Any) -> Any:
    """Return NumPy's whole numbers as Python's."""
    return int(value) if isinstance(value, numbers.Integral) and not isinstance(value, bool) else value


def _real(value: Any) -> Any:
    """Return NumPy's numbers as Python's."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool | int) else value


Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=INT32), Wanted(f"a whole number from 0 to {INT32}")]
Seed = Annotated[
    int, BeforeValidator(_whole), Field(ge=-1, le=INT32), Wanted(f"-1 (as --seed), or a whole number from 0 to {INT32}")
]
Positive = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=INT32), Wanted(f"a whole number from 1 to {INT32}")]
Rate = Annotated[
    float,
    BeforeValidator(_real),
    Field(ge=FLOAT32_TINY, le=FLOAT32_MAX),
    Wanted("a finite number above 0 (float32 holds 1.2e-38 to 3.4e38)"),
]
Weight = Annotated[
    float,
    BeforeValidator(_real),
    Field(ge=0, le=FLOAT32_MAX),
    Wanted("a finite number not below 0 (float32 holds up to 3.4e38)"),
]
Share = Annotated[float, BeforeValidator(_real), Field(ge=0, le=1), Wanted("a number from 0 to 1")]
ShareAboveZero = Annotated[float, BeforeValidator(_real), Field(gt=0, le=1), Wanted("a number above 0, and at most 1")]
ShareBelowOne = Annotated[float, BeforeValidator(_real), Field(ge=0, lt=1), Wanted("a number from 0 to below 1")]


def _file_name(name: str) -> str:
    if not name.strip(" .") or set(name) & set("/\\") or not name.isprintable() or len(name.encode()) > 200:
        raise ValueError(name)
    return name


FileName = Annotated[
    str, AfterValidator(_file_name), Wanted("a file name: not empty, without / or \\, at most 200 bytes")
]

_WANTED: dict[Any, str] = {bool: "True or False", str: "a text", int: "a whole number", float: "a number"}


class OptionError(UserError):
    """Say which option has a value that it cannot have.

    Attributes:
      name: of the option.
      value: what was found.
      fault: what is wrong with it, and what would be right.
    """

    def __init__(self, name: str, value: Any, fault: str):
        self.name, self.value, self.fault = name, value, fault
        super().__init__(f"{flag(name)} {shown(value)}{fault}")


class UnknownOption(UserError):
    """Say which option does not exist, and which one may be meant.

    Attributes:
      name: that was given.
    """

    def __init__(self, name: str, known: Iterable[str], what: str = "a study"):
        self.name = name
        super().__init__(f"{what} has no option {name!r}; did you mean {nearest(name, known)}?")


def flag(name: str) -> str:
    """Return the command-line flag of an option."""
    return "--" + name.replace("_", "-")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like another."""
    return difflib.get_close_matches(name, list(known), 1, cutoff=0.0)[0]


def shown(value: Any) -> str:
    """Return a value as it was written, if that is short."""
    try:
        text = repr(value)
    except Exception:  # a number of more digits than Python writes, an object of the user's
        text = f"{type(value).__name__} of {value.bit_length()} bits" if isinstance(value, int) else "?"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
def options(cls: type[T]) -> type[T]:
    """Make a class a frozen dataclass that checks the types and ranges of its fields when it is made.

    Numbers are not made of texts, nor whole numbers of others.

    Raises:
      OptionError: on making one with a value of another type or out of range.
      UnknownOption: with a field that there is not.
    """
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
    made = pydantic.dataclasses.dataclass(cls, frozen=True, kw_only=True, config=config)
    check = made.__init__

    @functools.wraps(check)
    def checked(self: Any, **values: Any) -> None:
        try:
            check(self, **values)
        except ValidationError as error:
            raise _refused(made, values, error) from None

    made.__init__ = checked  # type: ignore[method-assign,assignment]
    return typing.cast(type[T], made)


def read(kind: Any, text: str) -> Any:
    """Return the value of a type that a text says, or the text itself: what takes it refuses that."""
    if typing.get_origin(kind) is Literal:
        return next((choice for choice in typing.get_args(kind) if str(choice) == text), text)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


def wanted(annotation: Any) -> str:
    """Return in words what a type takes."""
    kind, words = parts(annotation)
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    return next((word.text for word in reversed(words) if isinstance(word, Wanted)), _WANTED.get(kind, f"a {kind}"))


def parts(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the type that an annotation is about, and what else it says."""
    if typing.get_origin(annotation) is Annotated:
        kind, *words = typing.get_args(annotation)
        return kind, tuple(words)
    return annotation, ()


def _refused(cls: type, values: dict[str, Any], error: ValidationError) -> UserError:
    """Return the first of pydantic's complaints as one line."""
    found = error.errors(include_url=False, include_context=False)[0]
    name = str(found["loc"][0])
    if name not in cls.__annotations__ and hasattr(cls, "of"):
        return UserError(
            f"{cls.__name__}({name}=...): takes groups; {cls.__name__}.of({name}=...) takes options by name"
        )
    if name not in cls.__annotations__:
        return UnknownOption(name, [field.name for field in dataclasses.fields(cls)], cls.__name__)  # type: ignore[arg-type]
    annotation = typing.get_type_hints(cls, include_extras=True)[name]
    if dataclasses.is_dataclass(annotation):
        right = f"{annotation.__name__}(...), or give options by name to {cls.__name__}.of"  # type: ignore[union-attr]
        return UserError(f"{cls.__name__}({name}={shown(values[name])}): must be {right}")
    right = wanted(annotation)
    unknown = right.startswith("one of ") and isinstance(values[name], str)
    return OptionError(name, values[name], f" is unknown; {right}" if unknown else f": must be {right}")
