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


class Frozen(nnx.Variable):
    """Hold what a model is given: never trained, averaged, sent or saved."""


def freeze(module: nnx.Module) -> nnx.Module:
    """Return ``module`` with its parameters made :class:`Frozen`, in place."""
    for _, part in list(nnx.iter_modules(module)):
        for name, value in list(vars(part).items()):
            if isinstance(value, nnx.Param):
                setattr(part, name, Frozen(value[...]))
    return module


def _name(path: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in path)


def _flat(state: nnx.State) -> dict[str, tuple[tuple[Any, ...], nnx.Variable]]:
    return {_name(path): (path, variable) for path, variable in nnx.to_flat_state(state)}


_KINDS = (nnx.Param, nnx.BatchStat, Frozen)


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: a static argument of jitted functions
class Template:
    """Hold a module's structure: its arrays come and go as flat dictionaries.

    Attributes:
      graph: the static part of the module.
      params: the trained variables by name, without values.
      stats: the statistics (running moments) by name, without values.
      frozen: what the module is given, by name, without values.
    """

    graph: nnx.GraphDef
    params: dict[str, tuple[tuple[Any, ...], nnx.Variable]]
    stats: dict[str, tuple[tuple[Any, ...], nnx.Variable]]
    frozen: dict[str, tuple[tuple[Any, ...], nnx.Variable]]

    @classmethod
    def of(cls, make: Callable[[], nnx.Module]) -> Template:
        """Return the template of the module that ``make`` builds; nothing is computed."""
        graph, *states = nnx.split(nnx.eval_shape(make), *_KINDS)
        return cls(graph, *map(_flat, states))

    def module(
        self, params: Mapping[str, Array], stats: Mapping[str, Array], frozen: Mapping[str, Array] | None = None
    ) -> nnx.Module:
        """Return a module with these values; names beyond the module's own are passed over."""
        fill = lambda kind, values: nnx.from_flat_state(
            [(path, variable.replace(values[name])) for name, (path, variable) in kind.items()]
        )
        states = [fill(self.params, params), fill(self.stats, stats), fill(self.frozen, frozen or {})]
        return nnx.merge(self.graph, *states, copy=True)


def drawn(make: Callable[[], nnx.Module]) -> nnx.Module:
    """Return the module that ``make`` builds, its weights drawn by one compiled program.

    What a weight is drawn by is code of its own for every shape. On a CPU it is compiled without optimisation: it runs
    once, and for two encoders ResNet-8 LLVM would take 20 s to make it fast.
    """
    graph, _ = nnx.split(nnx.eval_shape(make))
    options: dict[str, Any] = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    state = jax.jit(lambda: nnx.state(make())).lower().compile(options)()
    return nnx.merge(graph, state)


def variable_shapes(variables: Mapping[str, tuple[Any, nnx.Variable]]) -> Variables:
    """Return the shapes of a template's variables (:attr:`Template.params`, ...) by name."""
    return {name: jax.tree.leaves(variable)[0] for name, (_, variable) in variables.items()}


def values(module: nnx.Module) -> tuple[Variables, Variables]:
    """Return the parameters and the statistics of ``module`` by name."""
    _, *states = nnx.split(module, *_KINDS)
    return _values(states[0]), _values(states[1])


def frozen_values(module: nnx.Module) -> Variables:
    """Return what ``module`` is given, by name."""
    _, *states = nnx.split(module, *_KINDS)
    return _values(states[2])


def _values(state: nnx.State) -> Variables:
    return {name: variable[...] for name, (_, variable) in sorted(_flat(state).items())}
