"""The server's side of a round: what is added up over clients, and what becomes of the sums."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.algorithms import Aggregate
from mmfl_jax.engine import moments
from mmfl_jax.engine.batches import GroupData
from mmfl_jax.engine.client import begin, end, first_client
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import ServerState, zeros_like

Array = jax.Array
Message = dict[str, dict[str, Any]]
# Folded into a round's key for the server's randomness; those of clients are 0, 1, 2, ...
_SERVER = 2**31 - 1


def server_key(key: Array, round_number: Array) -> Array:
    """Return the key of the server's randomness in a round; ``key`` is the run's."""
    return jax.random.fold_in(jax.random.fold_in(key, round_number), _SERVER)


def message_shapes(program: Program, state: ServerState, data: GroupData, group: int) -> Message:
    """Return the shapes of what a client of ``group`` sends, with its moments: the functions of the round, traced."""

    one_device = dataclasses.replace(program, span=1)

    def one(state: ServerState, data: GroupData) -> Message:
        client, batch = first_client(one_device, group, state, data)
        return end(client, begin(client, batch))[0]

    return jax.eval_shape(one, state, data)


def empty_sums(
    program: Program, state: ServerState, data: tuple[GroupData, ...], cohort: tuple[int, ...]
) -> dict[str, Any]:
    """Return zeros of everything that a round adds up over clients."""
    shapes = [message_shapes(program, state, data[g], g) for g in range(len(program.groups))]
    sums: dict[str, Any] = {
        "weight": jnp.zeros(len(shapes)),
        "count": jnp.zeros(len(shapes)),
        "losses": {name: jnp.float32(0) for name in ("loss", "task", *(o.name for o in program.objectives))},
        "steps": jnp.float32(0),
        "skipped": jnp.int32(0),
        "objectives": {o.name: o.empty_sums(state.objectives[o.name]) for o in program.objectives},
    }
    if program.algorithm.reduce.combine is not None:
        row = lambda n: lambda x: jnp.zeros((n, *x.shape))
        sums["stack"] = tuple(jax.tree.map(row(n), shape) for n, shape in zip(cohort, shapes))
        sums["there"] = tuple(jnp.zeros(n) for n in cohort)
        return sums
    merged: Message = {}
    for shape in shapes:
        for field, values in shape.items():
            merged[field] = {**merged.get(field, {}), **values}
    sums["message"] = zeros_like(merged, program.algorithm.reduce.dtype)
    return sums


def _by_name(program: Program, names: Any, values: Array) -> dict[str, Array]:
    return {n: values[np.array(program.holders(n), np.int32)].sum() for n in names}


def _reduced(program: Program, sums: dict[str, Any]) -> Message:
    """Return the fields of the message, each reduced over those who hold the variable."""
    reduce = program.algorithm.reduce
    if reduce.combine is not None:
        return _combined(program, sums)
    weight = sums["weight"] / program.largest if reduce.relative else sums["weight"]

    def mean(name: str, total: Array) -> Array:
        held = weight[np.array(program.holders(name), np.int32)].sum()
        return reduce.read(total) / jnp.where(held > 0, held, 1)

    return {field: {n: mean(n, t) for n, t in totals.items()} for field, totals in sums["message"].items()}


def _combined(program: Program, sums: dict[str, Any]) -> Message:
    """Return the fields of the message, each block of variables that the same groups hold combined at once."""
    fields = {field for stack in sums["stack"] for field in stack}
    found: Message = {field: {} for field in fields}
    blocks: dict[tuple[int, ...], dict[str, list[str]]] = {}
    for stack in sums["stack"]:
        for field, values in stack.items():
            for name in values:
                names = blocks.setdefault(tuple(program.holders(name)), {}).setdefault(field, [])
                names.extend([name] if name not in names else [])
    for groups, names_of in blocks.items():
        join = lambda field, n, groups=groups: jnp.concatenate([sums["stack"][g][field][n] for g in groups])
        stack = {field: {n: join(field, n) for n in names_of.get(field, [])} for field in fields}
        weight = jnp.concatenate([sums["there"][g] for g in groups])
        combine = program.algorithm.reduce.combine
        assert combine is not None
        for field, values in combine(stack, weight).items():
            found[field].update(values)
    return found


def finish(
    program: Program, state: ServerState, sums: dict[str, Any], key: Array
) -> tuple[ServerState, dict[str, Array]]:
    """Return the state after the server's update, and the round's metrics."""
    value = _reduced(program, sums)
    averaged = value.pop("moments", {})
    params = program.exchanged(state.params)
    names = [*params, *averaged]
    weight, count = _by_name(program, names, sums["weight"]), _by_name(program, names, sums["count"])
    whole = _by_name(program, params, jnp.array(program.weights, jnp.float32))
    aggregate = Aggregate(
        value,
        share={n: weight[n] / jnp.where(whole[n] > 0, whole[n], 1) for n in params},
        clients={n: count[n] for n in params},
        population={n: sum(program.counts[g] for g in program.holders(n)) for n in params},
        sampling=program.sampling,
        rate=program.server_rate(state.round),
        key=server_key(key, state.round),
    )
    updated, algorithm = program.algorithm.update(aggregate, state.algorithm, params)
    if program.algorithm.keeps_unseen:  # also under a server optimizer with momentum
        updated = {n: jnp.where(weight[n] > 0, updated[n], v) for n, v in params.items()}
    pooled = moments.pooled(state.stats, averaged)
    if program.algorithm.reduce.combine is not None:
        pooled = moments.feasible(pooled)
    stats = {n: jnp.where(weight[n] > 0, v, state.stats[n]) for n, v in pooled.items()}
    new = dataclasses.replace(
        state,
        params={**state.params, **updated},
        stats={**state.stats, **stats},
        algorithm=algorithm,
        objectives={o.name: o.update(state.objectives[o.name], sums["objectives"][o.name]) for o in program.objectives},
        round=state.round + 1,
    )
    return new, _metrics(sums)


def _metrics(sums: dict[str, Any]) -> dict[str, Array]:
    steps = jnp.maximum(sums["steps"], 1)
    named = {"loss" if name == "loss" else f"{name}_loss": total / steps for name, total in sums["losses"].items()}
    return {**named, "skipped_clients": sums["skipped"]}
