"""The program of a federation: everything of a round that is fixed before it is compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from mmfl_jax.algorithms import Algorithm
from mmfl_jax.engine.augment import Augmentation
from mmfl_jax.engine.relay import Relay
from mmfl_jax.engine.state import ServerState
from mmfl_jax.models import Template, Variables, frozen_values, values
from mmfl_jax.models.scopes import PRIVATE, held, scope
from mmfl_jax.objectives.prompts import Alignment

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Program:
    """Say what clients and server compute.

    Attributes:
      task: ``multilabel`` or ``multiclass``.
      template: the model that the server evaluates: whole, or with the shared prompt alone.
      groups: modality set of each client group.
      templates: the model of each group.
      private: words that make a variable private (:func:`mmfl_jax.models.scopes.scope`).
      client_optimizer: made anew by every client in every round; its steps are scaled by ``learning_rate``.
      learning_rate: of the clients, ``round -> rate``.
      algorithm: what is added to local training, and the server's update.
      relay: MIM's source of positives, None without MIM.
      alignment: of prompts, None without them.
      batch_size: of a local step.
      augmentation: of its samples.
      weighting: of clients in averages: ``samples`` or ``uniform``.
    """

    task: str
    template: Template
    groups: tuple[tuple[str, ...], ...]
    templates: tuple[Template, ...]
    private: tuple[str, ...]
    client_optimizer: optax.GradientTransformation
    learning_rate: Callable[[Array], Array]
    algorithm: Algorithm
    relay: Relay | None
    batch_size: int
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    weighting: str = "samples"
    alignment: Alignment | None = None

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
        return scope(name, self.private) == PRIVATE

    def sent(self, group: int) -> tuple[list[str], list[str]]:
        """Return the names of parameters and of statistics that clients of ``group`` exchange with the server."""
        template = self.templates[group]
        keep = lambda names: [name for name in names if not self.is_private(name)]
        return keep(template.params), keep(template.stats)

    def contributors(self, name: str) -> list[int]:
        """Return the groups whose clients hold the variable ``name``."""
        return [g for g, modalities in enumerate(self.groups) if held(name, modalities)]

    def init(self, model: nnx.Module, clients: list[int], slots: int) -> ServerState:
        """Return the state before the first round.

        Args:
          model: the whole model with its initial weights.
          clients: number of clients of each group.
          slots: of the relay: classes or places.
        """
        params, stats = values(model)
        averaged = {name: value for name, value in params.items() if not self.is_private(name)}
        private = tuple(
            {
                name: jnp.broadcast_to(value, (count, *value.shape))
                for name, value in {**params, **stats}.items()
                if self.is_private(name) and g in self.contributors(name)
            }
            for g, count in enumerate(clients)
        )
        relay = self.relay.init(slots) if self.relay else {}
        # Rounds are given the state to keep: what the model was made of must not go with it.
        frozen = {name: jnp.array(value) for name, value in frozen_values(model).items()}
        return ServerState(params, stats, self.algorithm.init(averaged), relay, private, jnp.int32(0), frozen)

    def evaluation_variables(self, state: ServerState) -> tuple[Variables, Variables]:
        """Return parameters and statistics to evaluate the global model with.

        Private variables have no global value; the mean over the clients that hold them stands in (what a simulation
        can see, and no server could).
        """
        out = []
        for kind in (state.params, state.stats):
            merged = dict(kind)
            for name in kind:
                held_by = [c[name] for c in state.clients if name in c]
                if held_by:
                    merged[name] = jnp.concatenate(held_by).mean(axis=0)
            out.append(merged)
        return out[0], out[1]
