"""What XLA estimates a program to cost on a TPU that is not here; import it before JAX.

Needs the extra ``tpu`` (libtpu). Nothing runs: programs are compiled for a device of a topology, and the compiler's
own ``estimated_cycles`` of each operation are added up, loop bodies times their trips where it knows them. An estimate,
and no time that anybody measured: of matrix products and copies it was within 15 to 25 % of the ideal.
"""

from __future__ import annotations

import os

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
}

import collections
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.experimental.layout import Format, Layout
from jax.sharding import SingleDeviceSharding

from mmfl_jax.ops.platform import compiled_for

# Clock, and bfloat16 operations a second: published, but v6e's clock is what follows from four units of 256 x 256.
CHIPS = {"v5e": (1.5e9, 197e12), "v6e": (1.75e9, 918e12)}

Costs = dict[tuple[str, str], int]


def chip(topology: str) -> tuple[float, float]:
    """Return clock and peak of a topology such as ``v5e:2x2``."""
    return CHIPS[topology.split(":")[0]]


def compile_for(topology: str, function: Callable, *arguments: Any) -> Any:
    """Compile a function for one device of a topology, each argument in the layout that the program likes best.

    With default layouts, copies at the entry would outweigh a single operation.
    """
    device = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    sharding = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), arguments)
    free = Format(Layout.AUTO, sharding)
    with compiled_for("tpu"):
        return jax.jit(function, in_shardings=free, out_shardings=free).lower(*shapes).compile()


def costs(text: str) -> Costs:
    """Return the estimated cycles of a compiled program by operation: ``(HLO name, where it comes from) -> cycles``."""
    parts, name = collections.defaultdict(list), ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            name = "ENTRY" if line.startswith("ENTRY") else line.split(" ")[0].lstrip("%")
        else:
            parts[name].append(line)
    found: collections.Counter[tuple[str, str]] = collections.Counter()

    def add(name: str, times: int) -> None:
        for line in parts[name]:
            if cycles := re.search(r'"estimated_cycles":"(\d+)"', line):
                found[_source(line)] += times * int(cycles[1])
            if body := re.search(r" while\(.*body=%?([\w.\-]+)", line):
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                add(body[1], times * (int(trips[1]) if trips else 1))

    add("ENTRY", 1)
    return dict(found)


def _source(line: str) -> tuple[str, str]:
    operation = re.match(r"\s*(?:ROOT )?%?([a-zA-Z_\-]+)", line)
    source = re.search(r'op_name="([^"]*)"', line)
    steps = re.sub(r"(jit|vmap|transpose|jvp)\(|\)", "", source[1] if source else "").split("/")
    return (operation[1].strip("-_") if operation else "", steps[-1])


def cycles(compiled: Any) -> int:
    """Return the estimated cycles of a compiled program."""
    return sum(costs(compiled.as_text()).values())
