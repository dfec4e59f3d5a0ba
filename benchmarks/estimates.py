"""What XLA estimates a program to cost on a TPU that is not here; import it before JAX.

Needs the extra ``tpu`` (libtpu). Nothing runs: programs are compiled for a device of a topology, and the compiler's
own ``estimated_cycles`` of each operation are added up, loop bodies times their trips where it knows them; where it has
none (reshapes, pads, slices and gathers by themselves), bytes over the memory's bandwidth. An estimate, and no time
that anybody measured: of matrix products and copies it was within 15 to 25 % of the ideal.
"""

from __future__ import annotations

import os

from mmfl_jax.planner.process import ENVIRONMENT

os.environ |= ENVIRONMENT

import collections
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from mmfl_jax.ops.platform import compiled_for
from mmfl_jax.planner.chips import Topology
from mmfl_jax.planner.hlo import Text
from mmfl_jax.planner.pod import devices_of


def compile_for(topology: str, function: Callable, *arguments: Any) -> Any:
    """Compile a function for one device of a topology, each argument in the layout that the program likes best.

    With default layouts, copies at the entry would outweigh a single operation.
    """
    sharding = SingleDeviceSharding(devices_of(Topology.read(topology))[0])
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    free = Format(Layout.AUTO, sharding)
    with compiled_for("tpu"):
        return jax.jit(function, in_shardings=free, out_shardings=free).lower(*shapes).compile()


def costs(compiled: Any, topology: str) -> collections.Counter[str]:
    """Return the estimated cycles of a compiled program by which of JAX's functions they are of."""
    chip, found = Topology.read(topology).chip, collections.Counter[str]()
    for one, times, _ in Text(compiled.as_text()).placed:
        found[one.function] += round(chip.cycles(one) * times)
    return found
