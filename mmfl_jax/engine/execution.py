"""Where the samples of a round are: all of them on the device, or streamed to it in waves of clients."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmfl_jax.engine.batches import GroupData, Placed
from mmfl_jax.engine.data import Normalizer
from mmfl_jax.engine.plan import GroupPlan, Planner
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import AXIS, make_round, train_cohort
from mmfl_jax.engine.server import finish
from mmfl_jax.engine.state import ServerState
from mmfl_jax.federation import Federation

Array = jax.Array
Members = list[np.ndarray]
Cost = dict[str, Any]
Load = tuple[tuple[GroupData, ...], tuple[GroupPlan, ...], Cost]


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Hold who takes part in a round: numbers within each group, their local steps, and their delays."""

    members: Members
    steps: list[np.ndarray]
    delays: list[np.ndarray]

    def part(self, chosen: Members) -> Cohort:
        """Return the cohort of these places of each group's members."""
        take = lambda columns: [values[c] for values, c in zip(columns, chosen)]
        return Cohort(take(self.members), take(self.steps), take(self.delays))

    def same(self, other: Cohort) -> bool:
        """Return whether another cohort is of the same clients, steps and delays."""
        columns = lambda cohort: [*cohort.members, *cohort.steps, *cohort.delays]
        return all(map(np.array_equal, columns(self), columns(other)))


def _compiler_options(mesh: Mesh) -> dict[str, str | bool]:
    """Return the options of a round's compilation: on a CPU, what makes its loops faster."""
    if mesh.devices.flat[0].platform != "cpu":
        return {}
    # XLA's default is False, and its loops then copy what they carry, parameters among them, where nothing needs it.
    options: dict[str, str | bool] = {"xla_cpu_copy_insertion_use_region_analysis": True}
    if mesh.size >= (os.cpu_count() or 1):
        # With a device a core, operations of one device on the threads of another only get in each other's way.
        options["xla_cpu_multi_thread_eigen"] = False
    return options


class Resident:
    """Run rounds with all samples on the device: one jitted function a round.

    Args:
      program: what is computed.
      mesh: the devices.
      planner: lays cohorts into chunks.
      data: the samples of every group, in host memory.
    """

    def __init__(self, program: Program, mesh: Mesh, planner: Planner, data: tuple[GroupData, ...]):
        self.mesh, self.planner = mesh, planner
        self.data = jax.device_put(data, NamedSharding(mesh, P()))
        self._round = make_round(program, mesh, tuple(planner.most))
        self.compiled: Any = None
        self._laid: tuple[Cohort, tuple[GroupPlan, ...], Cost] | None = None

    def compile(self, state: ServerState, cohort: Cohort, key: Array) -> None:
        """Compile for these shapes; every later round has the same."""
        self.compiled = self._round.lower(state, self.data, self._plans(cohort)[0], key).compile(
            _compiler_options(self.mesh)
        )

    def run(
        self, state: ServerState, cohort: Cohort, key: Array, following: Callable[[], Cohort] | None = None
    ) -> tuple[ServerState, dict[str, Array], Cost]:
        """Return the state after the round of ``cohort``, metrics and cost; nothing has to be read for the next."""
        plans, cost = self._plans(cohort)
        state, metrics = self.compiled(state, self.data, plans, key)
        return state, metrics, cost

    def _plans(self, cohort: Cohort) -> tuple[tuple[GroupPlan, ...], Cost]:
        # Where everybody takes part, one round's plan is the next one's.
        if self._laid is None or not cohort.same(self._laid[0]):
            plans, cost = self.planner.lay(cohort.members, cohort.steps, cohort.delays)
            self._laid = cohort, jax.device_put(plans, NamedSharding(self.mesh, P(AXIS))), cost
        return self._laid[1:]

    def example(self, group: int) -> GroupData:
        """Return samples of a group as a round receives them."""
        return self.data[group]


class _Ahead:
    """Hold the first wave of the next round, while it is being read."""

    def __init__(self) -> None:
        self._held: tuple[Cohort, Future[Load]] | None = None

    def push(self, cohort: Cohort, load: Future[Load]) -> None:
        """Keep what reads the first wave of a cohort."""
        self._held = cohort, load

    def pop(self, cohort: Cohort) -> Future[Load] | None:
        """Return what was kept for a cohort, once; None where another was expected."""
        held, self._held = self._held, None
        if held is None or not cohort.same(held[0]):
            return None
        return held[1]


class Streamed:
    """Run rounds in waves of clients: the host reads the next wave while the device trains this one.

    Args:
      program: what is computed.
      mesh: the devices.
      planner: lays waves into chunks.
      data: the samples of every group without images and labels, in host memory.
      federation: gives the sample indices.
      normalizer: reads images.
      budget: bytes of images on a device at once; a client that is larger alone has its way.
    """

    def __init__(
        self,
        program: Program,
        mesh: Mesh,
        planner: Planner,
        data: tuple[GroupData, ...],
        federation: Federation,
        normalizer: Normalizer,
        budget: int,
    ):
        self.mesh, self.planner, self.data = mesh, planner, data
        self.federation, self.normalizer, self._task = federation, normalizer, program.task
        # Two waves are on the device at once: the one that trains and the one that arrives.
        self.capacity = self._capacities(budget // 2)
        self._wave = jax.jit(functools.partial(train_cohort, program, mesh, tuple(planner.most)))
        self._finish = jax.jit(functools.partial(finish, program), donate_argnums=0)
        self._add = jax.jit(lambda a, b: jax.tree.map(lambda x, y: x + y, a, b), donate_argnums=(0,))
        self.compiled: Any = None
        self._reader = ThreadPoolExecutor(1, "reader")
        self._ahead = _Ahead()

    def _capacities(self, budget: int) -> list[int]:
        """Return how many samples of each group a wave of some bytes has, at least the largest client.

        All groups have one share of their samples in it, so that they end with the same wave: in one of few clients,
        devices wait for each other.
        """
        modalities, groups = self.federation.archive.modalities, self.federation.groups
        sample = [sum(math.prod(modalities[m].shape) for m in g.modalities) for g in groups]
        sizes = [data.sizes for data in self.data]
        whole = sum(int(s.sum()) * each for s, each in zip(sizes, sample)) * self.normalizer.dtype.itemsize
        return [max(budget * int(s.sum()) // whole, int(s.max())) for s in sizes]

    def compile(self, state: ServerState, cohort: Cohort, key: Array) -> None:
        """Compile for these shapes; every later wave has the same."""
        data, plans, _ = self._load(cohort, [np.arange(len(m))[:1] for m in cohort.members])
        self.compiled = self._wave.lower(state, data, plans, key).compile(_compiler_options(self.mesh))

    def run(
        self, state: ServerState, cohort: Cohort, key: Array, following: Callable[[], Cohort] | None = None
    ) -> tuple[ServerState, dict[str, Array], Cost]:
        """Return the state after the round of ``cohort``, metrics and cost; ``device_waiting`` is a share of its time.

        Args:
          state: before the round.
          cohort: who takes part.
          key: of the run.
          following: tells the next round's cohort, whose first wave is read while this round's last one trains.
        """
        begin, waited = time.perf_counter(), 0.0
        loads = self._loads(cohort)
        pending = self._ahead.pop(cohort) or self._reader.submit(loads[0])
        costs: list[Cost] = []
        sums = None
        for further in [*loads[1:], None]:
            jax.block_until_ready(sums)  # the wave before leaves the device before another one is read
            free = time.perf_counter()
            data, plans, cost = pending.result()
            waited += time.perf_counter() - free
            if further is not None:
                pending = self._reader.submit(further)
            elif following is not None:
                coming = following()
                self._ahead.push(coming, self._reader.submit(self._loads(coming)[0]))
            state, wave = self.compiled(state, data, plans, key)
            sums = wave if sums is None else self._add(sums, wave)
            costs.append(cost)
        state, metrics = self._finish(state, sums, key)
        steps = sum(c["client_steps"] for c in costs)
        paid = max(1, sum(c["client_steps"] / (1 - c["padding_waste"]) for c in costs))
        total = {"clients": sum(c["clients"] for c in costs), "client_steps": steps}
        jax.block_until_ready(state)
        waiting = waited / max(time.perf_counter() - begin, 1e-9)
        return state, metrics, {**total, "padding_waste": 1 - steps / paid, "device_waiting": waiting}

    def _loads(self, cohort: Cohort) -> list[Callable[[], Load]]:
        """Return what reads each wave of a cohort."""
        return [functools.partial(self._load, cohort, wave) for wave in self._waves(cohort)]

    def _waves(self, cohort: Cohort) -> Iterator[Members]:
        """Yield the cohort in waves, places of each group's members, each within every group's capacity.

        Clients with most local steps come first: in a wave of clients alike no device waits long for another.
        """
        queues = []
        for group, (chosen, steps) in enumerate(zip(cohort.members, cohort.steps)):
            filled = 0
            waves: list[list[int]] = [[]]
            for place in np.argsort(-steps, kind="stable").tolist():
                size = int(self.data[group].sizes[chosen[place]])
                if waves[-1] and filled + size > self.capacity[group]:
                    waves.append([])
                    filled = 0
                waves[-1].append(place)
                filled += size
            queues.append(waves)
        for i in range(max(map(len, queues))):
            yield [np.array(waves[i] if i < len(waves) else [], np.int64) for waves in queues]

    def _load(self, cohort: Cohort, wave: Members) -> Load:
        """Read the samples of a wave and put them on the devices."""
        part = cohort.part(wave)
        plans, cost = self.planner.lay(part.members, part.steps, part.delays, wave)
        loaded = tuple(self._load_group(group, chosen) for group, chosen in enumerate(part.members))
        data = jax.device_put(loaded, NamedSharding(self.mesh, P()))
        return data, jax.device_put(plans, NamedSharding(self.mesh, P(AXIS))), cost

    def example(self, group: int) -> GroupData:
        """Return samples of a group as a wave of nobody has them: zeros."""
        return self._load_group(group, np.zeros(0, np.int64))

    def _load_group(self, group: int, chosen: np.ndarray) -> GroupData:
        clients, host, capacity = self.federation.groups[group], self.data[group], self.capacity[group]
        of_client = [np.arange(clients.offsets[i], clients.offsets[i + 1]) for i in chosen]
        rows = np.concatenate([np.zeros(0, np.int64), *of_client])
        begins = host.begins.copy()
        begins[chosen] = np.concatenate([[0], np.cumsum(host.sizes[chosen])])[: len(chosen)]

        def fill(values: Placed) -> np.ndarray:
            out = np.zeros((capacity, *values.shape[1:]), values.dtype)
            out[: len(values)] = values
            return out

        archive = self.federation.archive
        return dataclasses.replace(
            host,
            images={m: fill(self.normalizer.read(archive, m, clients.samples[rows])) for m in clients.modalities},
            labels=fill(self._task.encode(self.federation.labels(clients, rows))),
            places=None if host.places is None else fill(host.places[rows]),
            begins=begins,
        )
