"""The reference: a round as a plain Python loop over clients, with which every fast path is compared.

One client at a time, one step at a time, through the same functions of client and algorithm as the round; sums in NumPy
float64, moments pooled by the textbook formula. Slow.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.algorithms import Aggregate
from mmfl_jax.engine.batches import GroupData, draw_batch
from mmfl_jax.engine.client import Client, Facts, Training, begin, end, local_step
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import client_seeds
from mmfl_jax.engine.server import server_key
from mmfl_jax.engine.state import Kept, ServerState

Array = jax.Array


class _Trained(NamedTuple):
    group: int
    client: int
    weight: float
    message: dict[str, Any]
    stats: dict[str, Array]
    kept: Kept


def reference_round(
    program: Program,
    state: ServerState,
    data: tuple[GroupData, ...],
    members: list[np.ndarray],
    steps: list[np.ndarray],
    key: Array,
    delays: list[np.ndarray] | None = None,
) -> ServerState:
    """Return the state after a round.

    Args:
      program: what is computed.
      state: before the round; it is left as it is.
      data: of every group, on one device.
      members: numbers within each group of the clients that take part.
      steps: local steps of these members.
      key: of the run.
      delays: of these members; None for no delay.
    """
    round_key = jax.random.fold_in(key, state.round)
    trained: list[_Trained] = []
    objectives = {o.name: o.empty_sums(state.objectives[o.name]) for o in program.objectives}
    for group, chosen in enumerate(members):
        first, step_of, last = _steps_of(program, group)
        for place, client in enumerate(chosen):
            kept = jax.tree.map(lambda v, c=client: v[c], state.clients[group])
            seed = client_seeds(round_key, jnp.asarray(data[group].ids)[client][None])[0]
            factors = data[group].attack
            attack = None if factors is None else jnp.float32(factors[client])
            delay = jnp.int32(0 if delays is None else delays[group][place])
            size = jnp.float32(data[group].sizes[client])
            servers = data[group].servers
            server = jnp.int32(0 if servers is None else servers[client])
            facts = Facts(size, jnp.int32(steps[group][place]), seed, delay, server, attack)
            now = first(state, data[group], kept, facts, client)
            for step in range(int(steps[group][place])):
                now, output, batch = step_of(state, data[group], kept, facts, client, now, jnp.int32(step))
                output, batch = jax.tree.map(lambda x: x[None], (output, batch))
                for o in program.objectives:
                    objectives[o.name] = o.add(objectives[o.name], output, batch, jnp.ones(1, bool))
            message, new = last(state, kept, facts, now)
            if all(np.isfinite(x).all() for x in jax.tree.leaves((message, new["variables"]))):
                weight = float(size) if program.weighting == "samples" else 1.0
                trained.append(_Trained(group, int(client), weight, message, now.stats, new))
    return _server(program, state, trained, objectives, key)


def _steps_of(program: Program, group: int) -> tuple[Any, Any, Any]:
    client = functools.partial(Client, program, group)

    def first(state: ServerState, data: GroupData, kept: Kept, facts: Facts, number: Array) -> Training:
        batch = draw_batch(program, data, number, facts.seed, jnp.int32(0))
        return begin(client(state, kept, facts), batch)

    def one(state: ServerState, data: GroupData, kept: Kept, facts: Facts, number: Array, now: Training, step: Array):
        batch = draw_batch(program, data, number, facts.seed, step)
        now, _, output = local_step(client(state, kept, facts), now, step, batch)
        return now, output, batch

    last = lambda state, kept, facts, now: end(client(state, kept, facts), now)
    return jax.jit(first), jax.jit(one), jax.jit(last)


def _server(
    program: Program, state: ServerState, trained: list[_Trained], objectives: dict[str, Any], key: Array
) -> ServerState:
    params = program.exchanged(state.params)
    holding = {n: [t for t in trained if t.group in program.holders(n)] for n in (*params, *state.stats)}
    weight = {n: sum(t.weight for t in holding[n]) for n in holding}
    whole = {n: sum(program.weights[g] for g in program.holders(n)) for n in params}
    aggregate = Aggregate(
        _value(program, state, trained),
        share={n: jnp.float32(weight[n] / whole[n]) for n in params},
        clients={n: jnp.float32(len(holding[n])) for n in params},
        population={n: sum(program.counts[g] for g in program.holders(n)) for n in params},
        sampling=program.sampling,
        rate=program.server_rate(state.round),
        key=server_key(key, state.round),
    )
    updated, algorithm = program.algorithm.update(aggregate, state.algorithm, params)
    if program.algorithm.keeps_unseen:
        updated = {n: updated[n] if holding[n] else v for n, v in params.items()}
    stats = dict(state.stats)
    for name in stats:
        if holding[name] and not program.is_private(name):
            held = [(t.weight, t.stats) for t in holding[name]]
            stats[name] = jnp.asarray(_pool(name, held), jnp.float32)
    clients = list(state.clients)
    for t in trained:
        clients[t.group] = jax.tree.map(lambda v, x, c=t.client: v.at[c].set(x), clients[t.group], t.kept)
    return dataclasses.replace(
        state,
        params={**state.params, **updated},
        stats=stats,
        algorithm=algorithm,
        objectives={o.name: o.update(state.objectives[o.name], objectives[o.name]) for o in program.objectives},
        clients=tuple(clients),
        round=state.round + 1,
    )


def _value(program: Program, state: ServerState, trained: list[_Trained]) -> dict[str, Any]:
    """Return the message's fields reduced over the holders; sums in float64, combinations as the round has them."""
    combine = program.algorithm.reduce.combine
    fields = dict.fromkeys(f for t in trained for f in t.message if f != "moments") or {"change": None}
    value: dict[str, Any] = {field: {} for field in fields}
    blocks: dict[tuple[int, ...], list[str]] = {}
    for name in program.exchanged(state.params):
        blocks.setdefault(tuple(program.holders(name)), []).append(name)
    for groups, names in blocks.items():
        held = [t for t in trained if t.group in groups]
        weights = np.array([t.weight for t in held])
        for field in fields:
            for n in names:
                if not held:
                    value[field][n] = jnp.zeros_like(state.params[n])
                    continue
                rows = np.stack([np.asarray(t.message[field][n], np.float64) for t in held])
                value[field][n] = jnp.asarray(np.average(rows, axis=0, weights=weights), jnp.float32)
        if combine is not None and held:
            stack = {f: {n: jnp.stack([t.message[f][n] for t in held]) for n in names} for f in fields}
            for field, found in combine(stack, jnp.asarray(weights, jnp.float32)).items():
                value[field].update(found)
    return value


def _pool(name: str, holders: list[tuple[float, dict[str, Array]]]) -> np.ndarray:
    total = sum(w for w, _ in holders)
    value = lambda stats, key: np.asarray(stats[key], np.float64)
    average = lambda terms: np.stack([w * x for (w, _), x in zip(holders, terms)]).sum(axis=0) / total
    path, _, leaf = name.rpartition("/")
    means = [value(stats, f"{path}/mean") for _, stats in holders]
    if leaf == "mean":
        return average(means)
    spreads = [value(stats, name) for _, stats in holders]
    if leaf == "var":
        square = lambda m: m * m
    else:
        groups, size, _ = spreads[0].shape
        square = lambda m: m.reshape(groups, size, 1) * m.reshape(groups, 1, size)
    return average([s + square(m) for s, m in zip(spreads, means)]) - square(average(means))
