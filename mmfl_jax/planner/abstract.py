"""A study on arrays that are only shapes: all of a run but its numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmfl_jax.engine.batches import GroupData, data_specs
from mmfl_jax.engine.data import Samples
from mmfl_jax.engine.mesh import AXIS
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.engine.round import state_specs
from mmfl_jax.engine.state import ServerState
from mmfl_jax.federation import Federation
from mmfl_jax.models.normalization import DTYPES
from mmfl_jax.rounds import Rounds
from mmfl_jax.study import Study
from mmfl_jax.study.build import MakeModel

Shape = jax.ShapeDtypeStruct


def on(mesh: Mesh, spec: P, tree: Any) -> Any:
    """Return the shapes of a tree of arrays, laid over a mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: Shape(x.shape, x.dtype, sharding=sharding), tree)


def fields_on(mesh: Mesh, specs: Any, values: Any) -> Any:
    """Return a dataclass of arrays as shapes, each field laid over a mesh by the same field of ``specs``."""
    laid = {f.name: on(mesh, getattr(specs, f.name), getattr(values, f.name)) for f in dataclasses.fields(values)}
    return dataclasses.replace(values, **laid)


def unit_normalizer(study: Study, federation: Federation) -> Normalizer:
    """Return what leaves images as they are, in the type that a study computes in; no image is read for it."""
    dtype = np.dtype(DTYPES[study.method.model.precision] or np.float32)
    lengths = {m: spec.shape[-1] for m, spec in federation.archive.modalities.items()}
    constant = lambda value: {m: np.full(length, value, np.float32) for m, length in lengths.items()}
    return Normalizer(constant(0), constant(1), dtype)


class AbstractSamples(Samples):
    """Say which arrays devices would hold of a federation; no image is read."""

    def tables(self, mesh: Mesh) -> tuple[GroupData, ...]:
        """Return the shapes of what homes know of their clients, a group an entry."""
        groups = range(len(self.placement.groups))
        return tuple(self._over(mesh, self._table(g, 0), 0) for g in groups)

    def with_samples(self, mesh: Mesh, group: int, table: GroupData, chosen: np.ndarray, capacity: int) -> GroupData:
        """Return the shapes of a group's table with room for ``capacity`` samples at a home."""
        return self._over(mesh, self._table(group, 0), -(-capacity // mesh.devices.shape[1]))

    def _over(self, mesh: Mesh, home: GroupData, samples: int) -> GroupData:
        """Return one home's part, of ``samples`` on each device, as the arrays of all homes."""
        homes, specs = mesh.devices.shape[0], data_specs()

        def whole(name: str) -> Any:
            spread = getattr(specs, name) != P(AXIS)  # over all devices of a home, where it holds samples
            length = lambda x: mesh.size * samples if spread else homes * x.shape[0]
            return jax.tree.map(lambda x: Shape((length(x), *x.shape[1:]), x.dtype), getattr(home, name))

        laid = {field.name: whole(field.name) for field in dataclasses.fields(home)}
        return fields_on(mesh, specs, dataclasses.replace(home, **laid))


class AbstractRounds(Rounds):
    """Hold a federation as shapes, on devices that need not be there.

    Args:
      study: the options.
      devices: to plan for.
      federation: the clients; None to open what the study names.
      device_bytes: memory of a device; 0 to ask the devices, which must be there.
    """

    _samples = AbstractSamples

    def __init__(
        self,
        study: Study,
        devices: Sequence[jax.Device],
        federation: Federation | None = None,
        *,
        device_bytes: int = 0,
    ):
        self._found, self._each = devices, device_bytes
        super().__init__(study, federation)

    def _devices(self) -> Sequence[jax.Device]:
        return self._found

    def _device_bytes(self) -> int:
        return self._each or super()._device_bytes()

    def _normalizer(self) -> Normalizer:
        return unit_normalizer(self.study, self.federation)

    def _initial_state(self, make: MakeModel) -> ServerState:
        model = lambda: make(tuple(self.federation.archive.modalities))
        places = len(self._clients.train) if self.program.by_place else 0
        classes = len(self.federation.archive.class_names)
        state = jax.eval_shape(lambda: self.program.init(model(), classes, places, self.placement))
        return fields_on(self.mesh, state_specs(), state)

    @property
    def arguments(self) -> tuple[Any, ...]:
        """Return the shapes of a round's arguments (of a wave's, of a streamed study): state, data, plans, key."""
        plans, _ = self.execution.planner.lay([members[:0] for members in self.cohort(0).members])
        data = tuple(self.execution.example(group) for group in range(len(self.program.groups)))
        key = on(self.mesh, P(), jax.eval_shape(lambda: jax.random.key(0)))
        state = self.state
        if self._on_host:  # only the rows of a round's clients are on the devices, a row a place of the plan
            rows = lambda plan, kept: jax.tree.map(lambda x: Shape((plan.kept.size, *x.shape[1:]), x.dtype), kept)
            state = dataclasses.replace(
                state, clients=on(self.mesh, P(AXIS), tuple(map(rows, plans, self.state.clients)))
            )
        return state, data, on(self.mesh, P(AXIS), plans), key

    def lowered(self) -> Any:
        """Return the round, or a wave, lowered for the devices."""
        state, _, plans, key = self.arguments
        return self.execution.lowered(state, plans, key)
