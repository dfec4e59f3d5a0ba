"""What is known of chips that need not be here: published figures of Google's TPUs."""

from __future__ import annotations

import re
from typing import NamedTuple

from mmfl_jax.errors import UserError
from mmfl_jax.planner.hlo import Operation

GIB = 2**30


class Chip(NamedTuple):
    """Hold the published figures of a device, as JAX counts devices.

    Attributes:
      hbm: bytes of its memory that a program may use.
      peak: bfloat16 operations a second.
      clock: cycles a second of its cores: ``peak`` over what its matrix units do in one.
      bandwidth: bytes a second of its memory.
      link: bytes a second to its neighbours, all links and one direction.

    Source: cloud.google.com/tpu/docs, system architecture of each generation.
    """

    hbm: int
    peak: float
    clock: float
    bandwidth: float
    link: float

    def cycles(self, one: Operation) -> float:
        """Return XLA's estimate for an operation; where it gives none, what its bytes take to go through memory."""
        return one.cycles + one.moved * self.clock / self.bandwidth


#: By the generation's name in a topology. A device of v2, v3 and v4 is a core, half a chip.
CHIPS = {
    "v2": Chip(8 * GIB, 22.5e12, 0.70e9, 350e9, 31e9),
    "v3": Chip(16 * GIB, 61.5e12, 0.94e9, 450e9, 41e9),
    "v4": Chip(16 * GIB, 137.5e12, 1.05e9, 614e9, 75e9),
    "v5e": Chip(int(15.75 * GIB), 197e12, 1.50e9, 819e9, 100e9),
    "v5p": Chip(95 * GIB, 459e12, 1.75e9, 2765e9, 300e9),
    "v6e": Chip(int(31.25 * GIB), 918e12, 1.75e9, 1640e9, 224e9),
}

#: Shapes of a slice that libtpu describes and compiles for; further slices of one shape are joined by ``@``.
_FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16")
SHAPES = {
    "v2": ("2x2", "4x4", "8x8", "16x16"),
    "v3": ("2x2", "4x4", "8x8", "16x16"),
    "v4": _DEEP,
    "v5e": _FLAT,
    "v5p": _DEEP,
    "v6e": _FLAT,
}


class Topology(NamedTuple):
    """Hold a pod's name: ``v5e:16x16``, or ``v5e:16x16@4`` of four slices that a data centre's network joins."""

    generation: str
    shape: str
    slices: int

    @classmethod
    def read(cls, name: str) -> Topology:
        """Return the topology of a name.

        Raises:
          UserError: for one that there is not; lists those there are.
        """
        generation, _, rest = name.partition(":")
        shape, _, slices = rest.partition("@")
        if generation not in SHAPES or shape not in SHAPES[generation] or not re.fullmatch(r"|[1-9]\d?", slices):
            known = "; ".join(f"{one}:{', '.join(shapes)}" for one, shapes in SHAPES.items())
            raise UserError(f"--topology {name!r} does not exist; there are {known}; and @N behind one for N slices")
        return cls(generation, shape, int(slices or 1))

    @property
    def chip(self) -> Chip:
        """Return what is known of its devices."""
        return CHIPS[self.generation]
