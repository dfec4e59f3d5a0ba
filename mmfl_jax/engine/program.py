"""The program of a federation: everything of a round that is fixed before it is compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from mmfl_jax.algorithms import Algorithm
from mmfl_jax.engine.host_memory import rows_on_host
from mmfl_jax.engine.mesh import by_home, put_everywhere
from mmfl_jax.engine.state import Kept, ServerState
from mmfl_jax.federation.placement import Placement
from mmfl_jax.models import Template, Variables, frozen_values, values
from mmfl_jax.models.scopes import is_private
from mmfl_jax.objectives.objective import Objective
from mmfl_jax.tasks.task import Task

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """Say what clients and server compute.

    Attributes:
      task: what labels mean: the loss of a batch, and its scores.
      template: the model that the server evaluates: whole, or with the shared prompt alone.
      groups: modality set of each client group.
      templates: the model of each group.
      private: words that make a variable private (:func:`mmfl_jax.models.scopes.scope`).
      client_optimizer: made anew by every client in every round; its steps are scaled by ``learning_rate``.
      learning_rate: of the clients, ``round -> rate``.
      algorithm: how the federation optimises.
      batch_size: of a local step.
      counts: clients of each group.
      weights: weight of all clients of each group together.
      largest: weight of the largest client.
      objectives: further terms of the local loss.
      server_rate: ``round -> rate`` by which the server's step is scaled.
      momentum: of the client optimizer, 0 for plain SGD.
      sampling: the probability that a client takes part in a round; 1 where cohorts are of a fixed size.
      augmentation: ``(images, labels, key, spread) -> images, labels``: how a batch is varied, or this device's share
        of it where it is spread over several.
      weighting: of clients in averages: ``samples`` or ``uniform``.
      span: devices that share each client's samples and batches.
      repeats: steps of the server in a round of the study: more than one where all samples are in one place.
    """

    task: Task
    template: Template
    groups: tuple[tuple[str, ...], ...]
    templates: tuple[Template, ...]
    private: tuple[str, ...]
    client_optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    algorithm: Algorithm
    batch_size: int
    counts: tuple[int, ...]
    weights: tuple[float, ...]
    largest: float = 1.0
    objectives: tuple[Objective, ...] = ()
    server_rate: Callable[[Array], Array] = lambda round: jnp.float32(1)
    momentum: float = 0.0
    sampling: float = 1.0
    augmentation: Callable[..., tuple[dict[str, Array], Array]] = lambda images, labels, key, spread: (images, labels)
    weighting: str = "samples"
    span: int = 1
    repeats: int = 1

    @classmethod
    def of(
        cls,
        make_model: Callable[[tuple[str, ...]], nnx.Module],
        modalities: tuple[str, ...],
        groups: tuple[tuple[str, ...], ...],
        **rest,
    ) -> Program:
        """Return the program for models made by ``make_model(held modalities)``, evaluated with all modalities."""
        template_of = lambda held: Template.of(functools.partial(make_model, held))
        templates = tuple(map(template_of, groups))
        return cls(template=template_of(modalities), groups=groups, templates=templates, **rest)

    def is_private(self, name: str) -> bool:
        """Return whether the variable stays with its client."""
        return is_private(name, self.private)

    def sent(self, group: int) -> tuple[list[str], list[str]]:
        """Return the names of parameters and of statistics that clients of ``group`` exchange with the server."""
        template = self.templates[group]
        keep = lambda names: [name for name in names if not self.is_private(name)]
        return keep(template.params), keep(template.stats)

    def holders(self, name: str) -> list[int]:
        """Return the groups whose clients have the variable ``name``: those whose own model has it."""
        return [g for g, t in enumerate(self.templates) if name in t.params or name in t.stats]

    @property
    def by_place(self) -> bool:
        """Return whether an objective has slots for the places that clients hold."""
        return any(objective.by_place for objective in self.objectives)

    def exchanged(self, params: Variables) -> Variables:
        """Return those of the server's parameters that any client exchanges with it."""
        return {n: v for n, v in params.items() if not self.is_private(n) and self.holders(n)}

    def init(
        self,
        model: nnx.Module,
        classes: int,
        places: int,
        placement: Placement | None = None,
        mesh: Mesh | None = None,
        *,
        on_host: bool = False,
    ) -> ServerState:
        """Return the state before the first round.

        Args:
          model: the whole model with its initial weights.
          classes: slots of objectives that have one for every class.
          places: slots of objectives that have one for every place.
          placement: the homes of clients, where what they keep lies; None for one device.
          mesh: the devices; None leaves arrays where JAX makes them.
          on_host: whether what clients keep lies on the host (:mod:`mmfl_jax.engine.host_memory`).
        """
        params, stats = values(model)
        objectives = {o.name: o.init(places if o.by_place else classes) for o in self.objectives}
        # Rounds are given the state to keep: what the model was made of must not go with it.
        frozen = {name: jnp.array(value) for name, value in frozen_values(model).items()}
        # A copy: an algorithm may keep the initial parameters themselves, and both are donated.
        state = jax.tree.map(jnp.array, self.algorithm.init(self.exchanged(params)))
        server = ServerState(params, stats, state, objectives, (), jnp.int32(0), frozen)
        if mesh is not None:
            server = put_everywhere(mesh, server)
        if on_host:
            assert placement is not None
            first = [self.first_kept(g, server.params, server.stats) for g in range(len(self.groups))]
            clients = tuple(map(rows_on_host, first, placement.groups))
            return dataclasses.replace(server, clients=clients)
        if placement is None:
            there = [np.ones(count, bool) for count in self.counts]
        else:
            there = [homes.there for homes in placement.groups]
        made = jax.jit(self._kept, out_shardings=None if mesh is None else by_home(mesh))
        return dataclasses.replace(server, clients=made(server.params, server.stats, there))

    def _kept(self, params: Variables, stats: Variables, there: list[Array]) -> tuple[Kept, ...]:
        """Return what clients keep at first, zeros in rows of nobody."""
        rows = lambda t: lambda v: jnp.where(t.reshape(-1, *[1] * jnp.ndim(v)), v, 0)
        return tuple(jax.tree.map(rows(t), self.first_kept(g, params, stats)) for g, t in enumerate(there))

    def first_kept(self, group: int, params: Variables, stats: Variables) -> Kept:
        """Return what a client of a group keeps before its first round."""
        names = self.sent(group)[0]
        template = self.templates[group]
        own = {n for n in (*template.params, *template.stats) if self.is_private(n)}
        exchanged = {n: params[n] for n in names}
        return {
            "variables": {n: v for n, v in {**params, **stats}.items() if n in own},
            "memory": self.algorithm.memory(exchanged),
            "transform": self.algorithm.transform.memory(exchanged),
        }

    def evaluation_variables(self, state: ServerState) -> tuple[Variables, Variables]:
        """Return parameters and statistics to evaluate the global model with.

        Private variables have no global value; the mean over the clients that hold them stands in (what a simulation
        can see, and no server could).
        """
        held = {
            name: [c["variables"][name] for c in state.clients if name in c["variables"]]
            for name in (*state.params, *state.stats)
        }
        held = {name: rows for name, rows in held.items() if rows}
        if not held:
            return state.params, state.stats
        counts = {name: sum(self.counts[g] for g in self.holders(name)) for name in held}
        on_host = any(isinstance(rows, np.ndarray) for of_groups in held.values() for rows in of_groups)
        means = (_means_on_host if on_host else _means)(held, counts)
        merged = lambda variables: {name: means.get(name, value) for name, value in variables.items()}
        return merged(state.params), merged(state.stats)

    def client_variables(self, state: ServerState, group: int, row: int) -> tuple[Variables, Variables]:
        """Return parameters and statistics of the model that the client in a row of its group uses itself."""
        kept = jax.tree.map(lambda v: v[row], state.clients[group])
        exchanged = {n: state.params[n] for n in self.sent(group)[0]}
        broadcast = self.algorithm.broadcast(state.algorithm)
        personal = self.algorithm.personal(exchanged, kept["memory"], broadcast)
        own = kept["variables"]
        return {**state.params, **personal, **own}, {**state.stats, **own}


@jax.jit
def _means(held: dict[str, list[Array]], counts: dict[str, int]) -> Variables:
    """Return the mean over clients of each variable, given the rows of its groups; rows of nobody are zeros."""
    return {
        name: functools.reduce(jnp.add, [v.sum(axis=0) for v in rows]) / counts[name] for name, rows in held.items()
    }


def _means_on_host(held: dict[str, list[np.ndarray]], counts: dict[str, int]) -> Variables:
    # NumPy adds row after row, and float32 would lose digits.
    total = lambda rows: sum(v.sum(axis=0, dtype=np.float64) for v in rows)
    return {name: jnp.asarray(total(rows) / counts[name], rows[0].dtype) for name, rows in held.items()}
