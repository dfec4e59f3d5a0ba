"""Where the samples of a round are: all of them on the device, or streamed to it in waves of clients."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from mmfl_jax.engine.batches import GroupData
from mmfl_jax.engine.data import Samples
from mmfl_jax.engine.host_memory import DeviceMemory, HostMemory
from mmfl_jax.engine.mesh import platform_of, put_parts
from mmfl_jax.engine.plan import GroupPlan, Planner, Work
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import make_round, train_cohort
from mmfl_jax.engine.server import finish
from mmfl_jax.engine.state import ServerState

Array = jax.Array
Members = list[np.ndarray]
Cost = dict[str, Any]
Memory = DeviceMemory | HostMemory


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


class Laid(NamedTuple):
    """Hold the plans of a cohort or of a wave, on the host and on the devices, and the work that they are."""

    plans: tuple[GroupPlan, ...]
    placed: tuple[GroupPlan, ...]
    work: Work


Load = tuple[tuple[GroupData, ...], Laid]


def compiler_options(mesh: Mesh) -> dict[str, str | bool]:
    """Return the options of a round's compilation: on a CPU, what makes its loops faster."""
    if platform_of(mesh) != "cpu":
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
      samples: the samples of every group.
      memory: where what clients keep is between rounds.
    """

    def __init__(self, program: Program, mesh: Mesh, planner: Planner, samples: Samples, memory: Memory):
        self.mesh, self.planner, self.memory = mesh, planner, memory
        self.data: tuple[GroupData, ...] = samples.resident(mesh)
        self._round = make_round(program, mesh, tuple(planner.most))
        self.compiled: Any = None
        self._laid: tuple[Cohort, Laid] | None = None

    def compile(self, state: ServerState, cohort: Cohort, key: Array) -> None:
        """Compile for these shapes; every later round has the same."""
        laid = self._lay(cohort)
        given = self.memory.bring(state, laid.plans)
        self.compiled = self.lowered(given, laid.placed, key).compile(compiler_options(self.mesh))
        self.memory.take_back(given)

    def lowered(self, state: ServerState, plans: tuple[GroupPlan, ...], key: Array) -> Any:
        """Return the round, lowered for arrays or shapes like these."""
        return self._round.lower(state, self.data, plans, key)

    def run(
        self, state: ServerState, cohort: Cohort, key: Array, following: Callable[[], Cohort] | None = None
    ) -> tuple[ServerState, dict[str, Array], Cost]:
        """Return the state after the round of ``cohort``, metrics and cost.

        Args:
          state: before the round.
          cohort: who takes part.
          key: of the run.
          following: tells the next round's cohort; what it keeps is read while this round trains.
        """
        laid = self._lay(cohort)
        state, metrics = self.compiled(self.memory.bring(state, laid.plans), self.data, laid.placed, key)
        if following is not None:
            self.memory.read_ahead(lambda: self._lay(following()).plans)
        return self.memory.take_back(state), metrics, laid.work.metrics()

    def _lay(self, cohort: Cohort) -> Laid:
        # Where everybody takes part, one round's plan is the next one's.
        if self._laid is None or not cohort.same(self._laid[0]):
            self._laid = cohort, put_laid(self.mesh, *self.planner.lay(cohort.members, cohort.steps, cohort.delays))
        return self._laid[1]

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


def put_laid(mesh: Mesh, plans: tuple[GroupPlan, ...], work: Work) -> Laid:
    """Return plans and their work, with each home's part at it."""
    return Laid(plans, put_parts(mesh, lambda home: jax.tree.map(lambda x: x[home : home + 1], plans)), work)


class Streamed:
    """Run rounds in waves of clients: the host reads the next wave while the devices train this one.

    Args:
      program: what is computed.
      mesh: the devices.
      planner: lays waves into chunks.
      samples: the samples of every group.
      memory: where what clients keep is between rounds.
      budget: bytes of images on a device at once; a client that is larger alone has its way.
    """

    def __init__(self, program: Program, mesh: Mesh, planner: Planner, samples: Samples, memory: Memory, budget: int):
        self.mesh, self.planner, self.samples, self.memory = mesh, planner, samples, memory
        # Two waves are on a device at once: the one that trains and the one that arrives.
        self.capacity = self._capacities(budget // 2 * mesh.devices.shape[1])
        self._tables = samples.tables(mesh)
        self._wave = jax.jit(functools.partial(train_cohort, program, mesh, tuple(planner.most)))
        self._finish = jax.jit(functools.partial(finish, program), donate_argnums=0)
        self._add = jax.jit(lambda a, b: jax.tree.map(lambda x, y: x + y, a, b), donate_argnums=(0,))
        self.compiled: Any = None
        self._reader = ThreadPoolExecutor(1, "reader")
        self._ahead = _Ahead()

    def _capacities(self, budget: int) -> list[int]:
        """Return how many samples of each group a wave has at a home, of some bytes, at least the largest client.

        All groups have one share of their samples in it, so that they end with the same wave: in one of few clients,
        devices wait for each other.
        """
        federation = self.samples.federation
        sizes, modalities = [group.sizes for group in federation.groups], federation.archive.modalities
        sample = [sum(math.prod(modalities[m].shape) for m in group.modalities) for group in federation.groups]
        whole = sum(int(s.sum()) * each for s, each in zip(sizes, sample)) * self.samples.normalizer.dtype.itemsize
        share = [max(budget * int(s.sum()) // whole, int(s.max())) for s in sizes]
        return [min(n, self.samples.most(g)) for g, n in enumerate(share)]

    def compile(self, state: ServerState, cohort: Cohort, key: Array) -> None:
        """Compile for these shapes; every later wave has the same."""
        laid = put_laid(self.mesh, *self.planner.lay([members[:1] for members in cohort.members]))
        given = self.memory.bring(state, laid.plans)
        self.compiled = self.lowered(given, laid.placed, key).compile(compiler_options(self.mesh))
        self.memory.take_back(given)

    def lowered(self, state: ServerState, plans: tuple[GroupPlan, ...], key: Array) -> Any:
        """Return a wave, lowered for arrays or shapes like these."""
        data = tuple(self.example(group) for group in range(len(self.capacity)))
        return self._wave.lower(state, data, plans, key)

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
        sums, done = None, None
        for further in [*loads[1:], None]:
            jax.block_until_ready(sums)  # the wave before leaves the device before another one is read
            free = time.perf_counter()
            state = self.memory.take_back(state)
            data, laid = pending.result()
            waited += time.perf_counter() - free
            if further is not None:
                pending = self._reader.submit(further)
            elif following is not None:
                coming = following()
                self._ahead.push(coming, self._reader.submit(self._loads(coming)[0]))
            state, wave = self.compiled(self.memory.bring(state, laid.plans), data, laid.placed, key)
            sums = wave if sums is None else self._add(sums, wave)
            done = laid.work if done is None else laid.work.after(done)
        state, metrics = self._finish(state, sums, key)
        state = self.memory.take_back(state)
        assert done is not None
        jax.block_until_ready(state)
        waiting = waited / max(time.perf_counter() - begin, 1e-9)
        return state, metrics, {**done.metrics(), "device_waiting": waiting}

    def _loads(self, cohort: Cohort) -> list[Callable[[], Load]]:
        """Return what reads each wave of a cohort."""
        return [functools.partial(self._load, cohort, wave) for wave in self._waves(cohort)]

    def _waves(self, cohort: Cohort) -> Iterator[Members]:
        """Yield the cohort in waves, places of each group's members, each within every home's capacity.

        Clients with most local steps come first: in a wave of clients alike no device waits long for another.
        """
        numbers = [self._wave_numbers(group, *of) for group, of in enumerate(zip(cohort.members, cohort.steps))]
        for i in range(max(1, *(int(n.max(initial=-1)) + 1 for n in numbers))):
            yield [np.flatnonzero(n == i) for n in numbers]

    def _wave_numbers(self, group: int, chosen: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return the wave of each member: a home's members fill one after the other."""
        sizes, homes = self.samples.federation.groups[group].sizes[chosen], self.planner.placement.groups[group]
        order = np.argsort(-steps, kind="stable")
        numbers = np.zeros(len(chosen), np.int64)
        filled, wave = [0] * homes.devices, [0] * homes.devices
        for place, home, size in zip(order.tolist(), homes.device[chosen[order]].tolist(), sizes[order].tolist()):
            if filled[home] and filled[home] + size > self.capacity[group]:
                filled[home], wave[home] = 0, wave[home] + 1
            filled[home] += size
            numbers[place] = wave[home]
        return numbers

    def _load(self, cohort: Cohort, wave: Members) -> Load:
        """Read the samples of a wave and put them on the devices."""
        part = cohort.part(wave)
        laid = put_laid(self.mesh, *self.planner.lay(part.members, part.steps, part.delays, wave))
        return tuple(self._load_group(group, chosen) for group, chosen in enumerate(part.members)), laid

    def example(self, group: int) -> GroupData:
        """Return samples of a group as a wave of nobody has them: zeros."""
        return self._load_group(group, np.zeros(0, np.int64))

    def _load_group(self, group: int, chosen: np.ndarray) -> GroupData:
        return self.samples.with_samples(self.mesh, group, self._tables[group], chosen, self.capacity[group])
