"""A study on a TPU pod that is not here: compiled for it, and priced by XLA's own estimates."""

from __future__ import annotations

import dataclasses
import re
import time

import jax
import numpy as np
from jax.experimental import topologies

from mmfl_jax import memory
from mmfl_jax.engine.execution import compiler_options
from mmfl_jax.errors import UserError, one_line
from mmfl_jax.memory import readable, tree_bytes
from mmfl_jax.planner import plan as plans
from mmfl_jax.planner.abstract import AbstractRounds
from mmfl_jax.planner.chips import Chip, Topology
from mmfl_jax.planner.hlo import Place, Text, collective_of
from mmfl_jax.study import Study


def devices_of(topology: Topology) -> list[jax.Device]:
    """Return the devices of a pod.

    Raises:
      UserError: where libtpu describes no such pod.
    """
    slices = {"num_slices": topology.slices} if topology.slices > 1 else {}
    name = f"{topology.generation}:{topology.shape}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **slices)
    except Exception as error:
        raise UserError(f"--topology {name}: libtpu says {one_line(error)}") from None
    return list(found.devices)


def plan(study: Study, name: str) -> plans.Plan:
    """Return the plan of a study on a topology.

    Args:
      study: the options.
      name: of the topology, such as ``v5e:16x16``.

    Raises:
      UserError: for a topology that there is not, or a study that does not fit on it.
    """
    topology = Topology.read(name)
    with memory.unlimited():
        rounds = AbstractRounds(study, devices_of(topology), device_bytes=topology.chip.hbm)
    check_arguments(rounds, topology)
    lowered, begin = rounds.lowered(), time.perf_counter()
    try:
        compiled = lowered.compile(compiler_options(rounds.mesh))
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"--topology {name}: {refused(rounds, topology.chip, str(error))}") from None
    seconds = time.perf_counter() - begin
    text = Text(compiled.as_text())
    held = plans.memory_by_kind(text, compiled)
    if rounds.study.execution.stream_mb:
        held["data"] *= 2  # the wave that trains and the one that arrives
    if sum(held.values()) > topology.chip.hbm:
        raise UserError(f"--topology {name}: {_too_large(topology.chip, held)}")
    return _priced(rounds, name, topology, text, held, seconds)


def _priced(
    rounds: AbstractRounds, name: str, topology: Topology, text: Text, held: dict[str, int], compile_seconds: float
) -> plans.Plan:
    chip, groups = topology.chip, len(rounds.program.groups)
    cycles = lambda group, step: _cycles(text, Place(group, step), chip)
    turn_cycles = np.array([cycles(g, False) for g in range(groups)])
    step_cycles = np.array([cycles(g, True) for g in range(groups)])
    work = plans.work_of(rounds)
    homes = (work.turns.T @ turn_cycles + work.lengths.T @ step_cycles) / chip.clock
    busiest = int(homes.argmax())
    parts = {
        "local steps": float(work.lengths[:, busiest] @ step_cycles) / chip.clock,
        "turns": float(work.turns[:, busiest] @ turn_cycles) / chip.clock,
        "server": cycles(None, False) / chip.clock,
        "collectives": _network_seconds(text, chip, rounds.mesh.size, work.lengths[:, busiest]),
    }
    parts = {part: value * rounds.repeats for part, value in parts.items()}
    made = plans.plan_of(
        rounds,
        text,
        held,
        chip.hbm,
        parts,
        homes,
        work.metrics(),
        chip.peak * rounds.mesh.size,
        topology=name,
        step_cycles=tuple(float(c) / size for c, size in zip(step_cycles, rounds.execution.planner.chunk)),
        cycles_by_source=plans.step_shares(text, text.source, chip.cycles),
        cycles_by_operation=plans.step_shares(text, lambda one: one.function, chip.cycles),
        compile_seconds=compile_seconds,
        notes=(*_notes(rounds, text, topology), plans.UNKNOWN),
    )
    return dataclasses.replace(made, bound=_bound(made))


def _cycles(text: Text, place: Place, chip: Chip) -> float:
    return sum(chip.cycles(one) * times for one, times, where in text.placed if where == place)


def _network_seconds(text: Text, chip: Chip, devices: int, steps: np.ndarray) -> float:
    """Return the seconds that the bytes of collectives take in a ring of all devices, twice for a sum."""
    seconds = 0.0
    for one, times, place in text.placed:
        if kind := collective_of(one):
            passes = 2 if kind == "all-reduce" else 1
            again = times * (int(steps[place.group]) if place.step and place.group is not None else 1)
            seconds += again * passes * one.bytes * (devices - 1) / devices / chip.link
    return seconds


def _bound(made: plans.Plan) -> str:
    """Return what most of the seconds go to, and of local steps, what in them."""
    if made.bound != "local steps":
        return made.bound
    if made.share_of_peak > 0.5:
        return "local steps: the matrix units"
    first = next(iter(made.cycles_by_source), "")
    return f"local steps: {first} ({made.cycles_by_source.get(first, 0):.0%} of their cycles)"


def _notes(rounds: AbstractRounds, text: Text, topology: Topology) -> list[str]:
    notes = []
    if text.unknown_loops:
        notes.append(f"{text.unknown_loops} loops of unknown length counted once")
    if topology.slices > 1:
        notes.append("sums between slices are priced as if within one")
    if rounds.study.execution.stream_mb:
        notes.append("streamed: the server's part is that of one wave, and the host is taken to read in time")
    return notes


def check_arguments(rounds: AbstractRounds, topology: Topology) -> None:
    """Raise UserError where what a round is given is more than a chip has; XLA would take long to find it out."""
    held = _given(rounds)
    if sum(held.values()) > topology.chip.hbm:
        name = f"{topology.generation}:{topology.shape}"
        raise UserError(f"--topology {name}: {_too_large(topology.chip, held)}")


def _given(rounds: AbstractRounds) -> dict[str, int]:
    """Return the bytes of a round's arguments on a device by kind, without the padding of layouts."""
    homes, span = rounds.mesh.devices.shape
    state, data, *_ = rounds.arguments
    clients = tree_bytes(state.clients)
    model = tree_bytes(state) - clients
    return {"data": tree_bytes(data) // (homes * span), "clients": clients // homes, "model": model}


def _too_large(chip: Chip, held: dict[str, int]) -> str:
    parts = ", ".join(f"{kind} {readable(size)}" for kind, size in held.items() if size)
    return _short(sum(held.values()), chip, parts, held)


def refused(rounds: AbstractRounds, chip: Chip, error: str) -> str:
    """Return what XLA's error says, and what would help where memory is short."""
    # XLA knows two ways to say it: of temporaries alone, and of all.
    for pattern in (r"HLO temporaries \(([\d.]+)([KMG])\) exceeds", r"Used ([\d.]+)([KMG]) of [\d.]+\w hbm"):
        if found := re.search(pattern, error):
            size = int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]])
            held = {**_given(rounds), "temporaries": size}
            what = f"at least {readable(size)}, temporaries" + ("" if "temporaries" in found[0] else " and all else")
            return _short(size, chip, what, held)
    return f"XLA says {error.splitlines()[0]}"


def _short(needed: int, chip: Chip, parts: str, held: dict[str, int]) -> str:
    over = readable(needed - chip.hbm)
    return f"{over} more than the {readable(chip.hbm)} of a chip ({parts}); {_help(held, chip)}"


def _help(held: dict[str, int], chip: Chip) -> str:
    """Return what would make a study fit."""
    growing, advice = sum(held.get(kind, 0) for kind in plans.GROWING), []
    if growing > chip.hbm / 2:
        advice.append(f"more chips (clients hold {growing / chip.hbm:.2g} times one's memory)")
    if held["data"] > chip.hbm / 4:
        advice.append("--stream-mb")
    if held["clients"] > chip.hbm / 4:
        advice.append("--client-memory host")
    if held.get("temporaries", 0) > chip.hbm / 4:
        advice.append("a smaller --chunk-size or --batch-size")
    return "what would help: " + ", ".join([*advice, "--precision bfloat16"])
