"""Copies of what a round is given: each argument is followed through the compiled program, into its loops."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence

from mmfl_jax.planner.hlo import Operation, Text, bytes_of

# What only moves numbers; a fusion of nothing else is a copy. Slices and gathers are how a batch is drawn.
_MOVING = {"copy", "copy-start", "transpose", "convert", "pad", "broadcast", "concatenate", "reverse"}
_STILL = {"bitcast", "reshape", "copy-done", "optimization-barrier", "async-done"}
_FUSED = _MOVING | _STILL | {"parameter", "constant", "tuple", "get-tuple-element", "iota"}

# An argument's name, or those of a tuple's parts; None for what was computed.
Origin = str | tuple["Origin", ...] | None


@dataclasses.dataclass(frozen=True)
class Copy:
    """Hold one copy of an argument in a device's main memory.

    Attributes:
      argument: JAX's name of it, such as ``data[0].images['s1'].values``.
      bytes: of the copy, with the padding of its layout.
      looped: whether it is made in a loop, anew each time.
    """

    argument: str
    bytes: int
    looped: bool


def copies(text: Text) -> list[Copy]:
    """Return the copies that a program makes of its arguments: in another layout or type, or moved as they are.

    What goes to a chip's own fast memory takes nothing of the main one and is no copy, and neither is a part.
    """
    given = [one.label or one.name for one in sorted(_parameters(text.entry), key=_number)]
    return list(_follow(text, text.entry, given, looped=False))


def _follow(text: Text, operations: list[Operation], given: Sequence[Origin], looped: bool) -> Iterator[Copy]:
    """Yield the copies among operations, of a computation whose parameters come from ``given``."""
    origins: dict[str, Origin] = {}
    for one in operations:
        operands = [origins.get(name) for name in re.findall(r"%([\w.\-]+)", one.rest.partition(")")[0])]
        first = operands[0] if operands else None
        if one.kind == "parameter":
            origins[one.name] = given[_number(one)]
        elif one.kind == "tuple":
            origins[one.name] = tuple(operands)
        elif one.kind == "get-tuple-element" and isinstance(first, tuple):
            origins[one.name] = first[int(one.attribute(r"index=(\d+)"))]
        elif one.kind in _STILL:
            origins[one.name] = first
        elif one.kind in ("while", "call", "async-start"):
            inner = text.computations.get(one.attribute(r"(?:body|to_apply|calls)=%?([\w.\-]+)"), [])
            yield from _follow(text, inner, operands, looped or one.kind == "while")
            origins[one.name] = first if one.kind == "while" else None
        elif one.kind in _MOVING or (one.kind == "fusion" and _only_moves(text, one)):
            moved = next((origin for origin in operands if isinstance(origin, str)), None)
            origins[one.name] = moved
            if moved is not None and (size := _bytes(one)):
                yield Copy(moved, size, looped)


def _only_moves(text: Text, fusion: Operation) -> bool:
    inner = text.computations.get(fusion.attribute(r"calls=%?([\w.\-]+)"), [])
    kinds = {one.kind for one in inner}
    return kinds <= _FUSED and bool(kinds & _MOVING)


def _bytes(one: Operation) -> int:
    """Return the bytes of a result in main memory; S(1) is a chip's own."""
    # The start of a copy has the result first, then the operand and a flag.
    result = re.match(r"\((\S+\}), ", one.shape) if one.kind == "copy-start" else None
    shape = result[1] if result else one.shape
    return 0 if "S(1)" in shape else bytes_of(shape)


def _parameters(operations: list[Operation]) -> list[Operation]:
    return [one for one in operations if one.kind == "parameter"]


def _number(parameter: Operation) -> int:
    return int(parameter.rest.partition(")")[0])
