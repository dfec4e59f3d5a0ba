"""Variables of a model as flat dictionaries ``path -> array``, and the module they make.

One name for each array ("encoders/s1/stem/kernel") serves scopes, averaging, checkpoints, byte counts and digests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

Array = jax.Array
Variables = dict[str, Array]


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in path)


def _flat(state: nnx.State) -> dict[str, tuple[tuple[Any, ...], nnx.Variable]]:
    return {_name(path): (path, variable) for path, variable in nnx.to_flat_state(state)}


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a static argument of jitted functions
class Template:
    """Hold a module's structure: its arrays come and go as flat dictionaries.

    Attributes:
      graph: the static part of the module.
      params: the trained variables by name, without values.
      stats: the statistics (running moments) by name, without values.
    """

    graph: nnx.GraphDef
    params: dict[str, tuple[tuple[Any, ...], nnx.Variable]]
    stats: dict[str, tuple[tuple[Any, ...], nnx.Variable]]

    @classmethod
    def of(cls, make: Callable[[], nnx.Module]) -> Template:
        """Return the template of the module that ``make`` builds; nothing is computed."""
        graph, *states = nnx.split(nnx.eval_shape(make), nnx.Param, nnx.BatchStat)
        return cls(graph, *map(_flat, states))

    def module(self, params: Mapping[str, Array], stats: Mapping[str, Array]) -> nnx.Module:
        """Return a module with these values; names beyond the module's own are passed over."""
        fill = lambda kind, values: nnx.from_flat_state(
            [(path, variable.replace(values[name])) for name, (path, variable) in kind.items()]
        )
        return nnx.merge(self.graph, fill(self.params, params), fill(self.stats, stats), copy=True)


def values(module: nnx.Module) -> tuple[Variables, Variables]:
    """Return the parameters and the statistics of ``module`` by name."""
    _, *states = nnx.split(module, nnx.Param, nnx.BatchStat)
    take = lambda state: {name: variable[...] for name, (_, variable) in sorted(_flat(state).items())}
    return take(states[0]), take(states[1])
