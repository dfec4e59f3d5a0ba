"""Read what XLA compiled: operations, their loops, cycles, collectives and arguments, from the program's text."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What XLA for TPU gives no cycles because it takes none, or because they are those of what it calls or waits for.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "conditional", "iota"}
_FREE |= {"after-all", "partition-id", "replica-id", "optimization-barrier", "custom-call"}
_ITEM = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_ITEM |= {"f64": 8, "s64": 8, "u64": 8, "c64": 8}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")


@dataclasses.dataclass(frozen=True)
class Operation:
    """Hold one line of a program.

    Attributes:
      name: of its result.
      shape: of its result, with layouts, as XLA writes it.
      kind: such as ``fusion``, ``while`` or ``all-reduce-start``.
      rest: operands and attributes, as XLA writes them.
    """

    name: str
    shape: str
    kind: str
    rest: str

    def attribute(self, pattern: str) -> str:
        """Return the first group of a pattern in what follows the operation's kind; empty where it is not there."""
        found = re.search(pattern, self.rest)
        return found[1] if found else ""

    @property
    def label(self) -> str:
        """Return JAX's name of it: the functions around, or the argument that it is."""
        return self.attribute(r'op_name="((?:[^"\\]|\\.)*)"').replace("\\'", "'")

    @property
    def function(self) -> str:
        """Return which of JAX's functions it is of, such as ``dot_general``."""
        return self.label.rpartition("/")[2]

    @property
    def cycles(self) -> int:
        """Return XLA's estimate for a TPU; 0 where it gives none."""
        return int(self.attribute(r'"estimated_cycles":"(\d+)"') or 0)

    @property
    def moved(self) -> int:
        """Return the bytes read and written by what XLA gives no cycles: a reshape, pad, slice or gather by itself."""
        free = self.cycles or self.kind in _FREE or self.kind.endswith(("-start", "-done")) or collective_of(self)
        return 0 if free else 2 * self.bytes

    @property
    def trips(self) -> int | None:
        """Return how often a loop's body runs; None where only the program's arguments tell."""
        known = self.attribute(r'"known_trip_count":\{"n":"(\d+)"')
        return int(known) if known else None

    @property
    def bytes(self) -> int:
        """Return the bytes of its result with the padding of its layout."""
        return bytes_of(self.shape)


@dataclasses.dataclass(frozen=True)
class Place:
    """Say where in a round an operation runs: once, in the loop over turns of a group's clients, or in that over steps.

    Attributes:
      group: of clients; None outside of the loops over turns.
      step: whether it is in the loop over local steps.
    """

    group: int | None = None
    step: bool = False


class Text:
    """Hold a compiled program's text, read into operations.

    Args:
      text: of ``compiled.as_text()``.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Operation]] = {}
        #: Loops whose trips neither XLA nor the plan of a round knows; they count once.
        self.unknown_loops = 0
        lines: list[Operation] = []
        for line in text.splitlines():
            if head := _HEAD.match(line):
                lines = self.computations[head[2]] = []
                if head[1]:
                    self.entry = lines
            elif found := _LINE.match(line):
                lines.append(Operation(*found.groups()))
        self._frames, self._files = _tables(text)
        self.placed = list(self._walk(self.entry, 1, Place(), itertools.count()))

    def _walk(
        self, operations: list[Operation], times: int, place: Place, groups: Iterator[int]
    ) -> Iterator[tuple[Operation, int, Place]]:
        """Yield operations with how often each runs where it is placed, and its place."""
        for one in operations:
            yield one, times, place
            if one.kind == "while":
                again, inside = self._loop(one, place, groups)
                yield from self._walk(self._called(one, "body"), times * again, inside, groups)
            elif one.kind in ("call", "conditional", "async-start", "fusion"):
                called = re.findall(r"(?:calls|to_apply|_computation|computations)=\{?%?([\w.\-]+)", one.rest)
                for name in called:
                    inner = self.computations.get(name, [])
                    # A fusion's cycles are its own; what it is made of only shows collectives.
                    wanted = inner if one.kind != "fusion" else [o for o in inner if collective_of(o)]
                    yield from self._walk(wanted, times, place, groups)

    def _loop(self, loop: Operation, place: Place, groups: Iterator[int]) -> tuple[int, Place]:
        """Return how often a loop runs where its place does not tell, and the place of its body."""
        if loop.trips is not None:
            return loop.trips, place
        if place.group is None and loop.label.endswith("shard_map/while"):
            return 1, Place(next(groups))
        if place.group is not None and not place.step:
            return 1, Place(place.group, True)
        self.unknown_loops += 1
        return 1, place

    def _called(self, one: Operation, attribute: str) -> list[Operation]:
        return self.computations.get(one.attribute(rf"{attribute}=%?([\w.\-]+)"), [])

    def source(self, one: Operation) -> str:
        """Return the file that an operation was written in, such as ``ops/whitening.py``; empty where not told."""
        if direct := one.attribute(r'source_file="([^"]*)"'):
            return _short(direct)
        frame = one.attribute(r"stack_frame_id=(\d+)")
        return _short(self._files.get(self._frames.get(int(frame), 0), "")) if frame else ""

    @property
    def arguments(self) -> dict[str, int]:
        """Return the bytes of a device's part of every argument, padding included, by its name."""
        return {one.label or one.name: one.bytes for one in self.entry if one.kind == "parameter"}


def collective_of(one: Operation) -> str:
    """Return which kind of collective an operation is; empty for none. The end of one is not another."""
    kind = one.kind.removesuffix("-start")
    return kind if kind in COLLECTIVES else ""


def bytes_of(shape: str) -> int:
    """Return the bytes of the arrays that XLA's text names, each padded to the tiles of its layout."""
    return sum(_padded(*found.groups()) for found in _ARRAY.finditer(shape) if found[1] in _ITEM)


def _padded(kind: str, sides: str, order: str | None, tiling: str | None) -> int:
    """Return the bytes of an array, given as ``f32``, ``16,4,4``, ``0,2,1`` (from the fastest) and ``T(4,128)S(1)``."""
    shape = [int(side) for side in sides.split(",") if side]
    tile = re.match(r"T\(([\d,]+)\)", tiling or "")
    if tile and order:
        lengths = [int(length) for length in tile[1].split(",")]
        for axis, length in zip(map(int, order.split(",")), reversed(lengths)):
            shape[axis] = -(-shape[axis] // length) * length
    return math.prod(shape) * _ITEM[kind]


def _tables(text: str) -> tuple[dict[int, int], dict[int, str]]:
    """Return the file's number of every stack frame, and the files' names."""
    section, files, places, frames = "", {}, {}, {}
    for line in text.splitlines():
        if line in ("FileNames", "FunctionNames", "FileLocations", "StackFrames"):
            section = line
        elif section and (entry := re.match(r"(\d+) (.*)", line)):
            number, rest = int(entry[1]), entry[2]
            if section == "FileNames":
                files[number] = rest.strip('"')
            elif section == "FileLocations":
                places[number] = int(re.findall(r"file_name_id=(\d+)", rest)[0])
            elif section == "StackFrames":
                frames[number] = places.get(int(re.findall(r"file_location_id=(\d+)", rest)[0]), 0)
        elif line.strip():
            section = ""
    return frames, files


def _short(path: str) -> str:
    for root in ("mmfl_jax/", "site-packages/"):
        if root in path:
            return path.rpartition(root)[2]
    return path.rpartition("/")[2]
