"""The plan of a study: what it needs of memory, network and time, and where each number comes from."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from mmfl_jax.engine.plan import Work
from mmfl_jax.planner.copies import copies
from mmfl_jax.planner.hlo import Operation, Text, collective_of
from mmfl_jax.rounds import Rounds

#: What no plan knows, told with every one of a topology.
UNKNOWN = (
    "not known: reading and sending images from the hosts, the network between slices, the latency of collectives, "
    "evaluation and checkpoints"
)
#: Kinds of memory that grow with the clients.
GROWING = ("data", "clients", "copies")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Hold what a round of a study is on some devices.

    Attributes:
      study: its name.
      topology: of the devices; empty for this machine.
      chips: devices, as JAX counts them.
      devices_per_client: of them share a client.
      chunk: clients that a device trains at once, a group an entry.
      clients: of the federation.
      cohort: of the round.
      hbm_bytes_per_chip: by kind: ``data``, ``clients`` (what they keep), ``model``, ``results``, ``temporaries`` and
        ``copies`` of arguments in another layout. XLA's account, padding of layouts included.
      hbm_limit: bytes that a device has.
      copied_data: bytes of copies of images, labels and tables, by the argument's name; empty where the round reads
        them as they lie.
      collectives: how many the program has, by kind.
      collective_bytes: of all of them, each counted once, by kind.
      collectives_in_steps: those that run in every local step, by kind.
      flops_per_round: XLA's count of what is written.
      seconds_estimated: of a round.
      seconds_by_part: ``local steps``, ``turns`` (begin and end of clients), ``server`` and ``collectives``.
      bound: what most of the seconds go to.
      share_of_peak: multiplications and additions a second over what the chips could do in bfloat16.
      idle_chips: share of all chips' time that passes waiting for the busiest.
      imbalance: how much longer the busiest computes than the mean.
      padding_waste: share of client-steps computed for nothing.
      step_cycles: XLA's estimate for a local step of a client, a group an entry.
      cycles_by_source: share of the cycles of local steps by file.
      cycles_by_operation: the same by what JAX calls it, such as ``conv_general_dilated``.
      compile_seconds: on this machine.
      largest_federation: clients like these that memory holds on the same chips.
      largest_chunk: that memory holds, by proportion, a group an entry.
      notes: what else should be known.
      checked: of this machine: what a round took, and how far off the estimate was.
    """

    study: str
    topology: str
    chips: int
    devices_per_client: int
    chunk: tuple[int, ...]
    clients: int
    cohort: int
    hbm_bytes_per_chip: dict[str, int]
    hbm_limit: int
    copied_data: dict[str, int]
    collectives: dict[str, int]
    collective_bytes: dict[str, int]
    collectives_in_steps: dict[str, int]
    flops_per_round: float
    seconds_estimated: float
    seconds_by_part: dict[str, float]
    bound: str
    share_of_peak: float
    idle_chips: float
    imbalance: float
    padding_waste: float
    step_cycles: tuple[float, ...]
    cycles_by_source: dict[str, float]
    cycles_by_operation: dict[str, float]
    compile_seconds: float
    largest_federation: int
    largest_chunk: tuple[int, ...]
    notes: tuple[str, ...] = (UNKNOWN,)
    checked: dict[str, float] | None = None

    @property
    def hbm(self) -> int:
        """Return the bytes that a device needs."""
        return sum(self.hbm_bytes_per_chip.values())

    def json(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return dataclasses.asdict(self)


def plan_of(
    rounds: Rounds,
    text: Text,
    held: dict[str, int],
    limit: int,
    parts: dict[str, float],
    homes: np.ndarray,
    metrics: dict[str, float],
    peak: float,
    **own: Any,
) -> Plan:
    """Return a plan with all that is worked out alike for every device.

    Args:
      rounds: that are planned.
      text: of the compiled round.
      held: :func:`memory_by_kind`.
      limit: bytes that a device has.
      parts: seconds of a round by part.
      homes: ``[homes]`` seconds that each computes.
      metrics: :func:`work_of`.
      peak: operations a second of all devices together.
      own: the other fields.
    """
    # Where noise outweighs what a step takes here, homes may all have nothing to do.
    imbalance = float(homes.max() / homes.mean()) if homes.any() else 1.0
    whole, flops, chunk = sum(parts.values()), rounds.flops(), rounds.execution.planner.chunk
    most, largest_chunk = largest(held, limit, rounds.federation.clients, chunk)
    kinds, size, stepped = collectives(text)
    return Plan(
        study=rounds.study.name,
        chips=rounds.mesh.size,
        devices_per_client=rounds.mesh.devices.shape[1],
        chunk=tuple(chunk),
        clients=rounds.federation.clients,
        cohort=int(metrics["clients"]),
        hbm_bytes_per_chip=held,
        hbm_limit=limit,
        copied_data=copied_data(text),
        collectives=kinds,
        collective_bytes=size,
        collectives_in_steps=stepped,
        flops_per_round=flops,
        seconds_estimated=whole,
        seconds_by_part=parts,
        bound=max(parts, key=lambda name: parts[name]),
        share_of_peak=flops / (whole * peak),
        idle_chips=1 - 1 / imbalance,
        imbalance=imbalance,
        padding_waste=metrics["padding_waste"],
        largest_federation=most,
        largest_chunk=largest_chunk,
        **own,
    )


def memory_by_kind(text: Text, compiled: Any) -> dict[str, int]:
    """Return the bytes on a device by kind (:attr:`Plan.hbm_bytes_per_chip`), that add up to XLA's account."""
    analysis = compiled.memory_analysis()
    # Those in loops are what clients begin with, and short-lived.
    copied = sum(one.bytes for one in copies(text) if not one.looped)
    kinds = Counter(dict.fromkeys(("data", "clients", "model"), 0))
    for name, size in text.arguments.items():
        kinds["data" if name.startswith("data") else "clients" if name.startswith("state.clients") else "model"] += size
    # What the text leaves out, alignment above all.
    kinds["model"] += analysis.argument_size_in_bytes - sum(kinds.values())
    kinds["results"] = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    copied = min(copied, analysis.temp_size_in_bytes)
    return {**kinds, "temporaries": analysis.temp_size_in_bytes - copied, "copies": copied}


def copied_data(text: Text) -> dict[str, int]:
    """Return the bytes of a round's copies of the data on a device, in its loops too, by the argument's name."""
    found = Counter[str]()
    for one in copies(text):
        if one.argument.startswith("data"):
            found[one.argument] += one.bytes
    return dict(found)


def collectives(text: Text) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """Return by kind how many collectives a program has, their bytes, and how many of them run in local steps."""
    count, size, stepped = Counter[str](), Counter[str](), Counter[str]()
    for one, _, place in text.placed:
        if kind := collective_of(one):
            count[kind] += 1
            size[kind] += one.bytes
            stepped[kind] += place.step
    return dict(count), dict(size), {kind: n for kind, n in stepped.items() if n}


def largest(memory: dict[str, int], limit: int, clients: int, chunk: list[int]) -> tuple[int, tuple[int, ...]]:
    """Return how many clients like these fit, and how large a chunk: proportions of what they take now."""
    growing = sum(memory[kind] for kind in GROWING)
    fixed = sum(memory.values()) - growing
    free = limit - sum(memory.values()) + memory["temporaries"]
    most = clients * max(limit - fixed, 0) // max(growing, 1)
    return int(most), tuple(int(size * max(free, 0) / max(memory["temporaries"], 1)) for size in chunk)


def work_of(rounds: Rounds) -> Work:
    """Return the work of the first round."""
    cohort = rounds.cohort(0)
    return rounds.execution.planner.lay(cohort.members, cohort.steps, cohort.delays)[1]


def step_shares(text: Text, name: Callable[[Operation], str], cycles: Callable[[Operation], float]) -> dict[str, float]:
    """Return the share of the cycles of local steps by a name of operations, the most first."""
    found = Counter[str]()
    for one, times, place in text.placed:
        if place.step and (price := round(cycles(one) * times)):
            found[name(one) or one.kind] += price
    whole = max(sum(found.values()), 1)
    return {name: cycles / whole for name, cycles in found.most_common()}
