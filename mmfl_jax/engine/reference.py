"""The reference: a round as a plain Python loop over clients, with which every fast path is compared.

One client at a time, one step at a time, sums in NumPy float64, moments pooled by the textbook formula. Slow.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.engine.local import Batch, GroupData, Local, draw_batch, local_step
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.round import client_seeds, start
from mmfl_jax.engine.state import ServerState
from mmfl_jax.models import Variables

Array = jax.Array


def reference_round(
    program: Program,
    state: ServerState,
    data: tuple[GroupData, ...],
    members: list[np.ndarray],
    steps: list[np.ndarray],
    key: Array,
) -> ServerState:
    """Return the state after a round.

    Args:
      program: what is computed.
      state: before the round; it is left as it is.
      data: of every group.
      members: numbers within each group of the clients that take part.
      steps: ``[clients]`` local steps of every client of each group.
      key: of the run.
    """
    round_key = jax.random.fold_in(key, state.round)
    rate = program.learning_rate(state.round)
    trained: list[tuple[int, int, float, Local]] = []
    relay = _RelaySums(program, state)
    for group, chosen in enumerate(members):
        step_of = jax.jit(functools.partial(_step, program, group))
        for client in chosen:
            private = {n: v[client] for n, v in state.clients[group].items()}
            local = start(program, state, group, private)
            received = local.params
            seed = client_seeds(round_key, jnp.asarray(data[group].ids)[client][None])[0]
            for step in range(int(steps[group][client])):
                local, projections, batch = step_of(state, data[group], received, local, client, seed, step, rate)
                relay.add(projections, batch.labels, batch.places)
            if all(np.isfinite(x).all() for x in jax.tree.leaves((local.params, local.stats))):
                size = float(data[group].sizes[client]) if program.weighting == "samples" else 1.0
                trained.append((group, int(client), size, local))
    return _server(program, state, trained, relay)


def _step(
    program: Program,
    group: int,
    state: ServerState,
    data: GroupData,
    received: Variables,
    local: Local,
    client: Array,
    seed: Array,
    step: Array,
    rate: Array,
) -> tuple[Local, dict[str, Array], Batch]:
    batch = draw_batch(program, data, client, seed, step)
    local, _, projections = local_step(program, group, received, local, batch, state.relay, rate, state.frozen)
    return local, projections, batch


class _RelaySums:
    def __init__(self, program: Program, state: ServerState):
        self.by_place = program.relay is not None and program.relay.source == "places"
        self.sums = {m: np.zeros(slot["keys"].shape) for m, slot in state.relay.items()}
        self.counts = {m: np.zeros(slot["known"].shape) for m, slot in state.relay.items()}

    def add(self, projections: dict[str, Array], labels: Array, places: Array) -> None:
        for m in set(projections) & set(self.sums):
            for i, z in enumerate(np.asarray(projections[m], np.float64)):
                slots = [int(places[i])] if self.by_place else np.flatnonzero(labels[i])
                if np.isfinite(z).all():
                    for slot in slots:
                        self.sums[m][slot] += z
                        self.counts[m][slot] += 1


def _server(
    program: Program, state: ServerState, trained: list[tuple[int, int, float, Local]], relay: _RelaySums
) -> ServerState:
    params, stats = dict(state.params), dict(state.stats)
    delta = {}
    for name in params:
        if program.is_private(name):
            continue
        holders = [(w, local.params[name]) for _, _, w, local in trained if name in local.params]
        total = sum(w for w, _ in holders)
        change = [w * (np.asarray(v, np.float64) - np.asarray(params[name], np.float64)) for w, v in holders]
        delta[name] = jnp.asarray(sum(change) / total if holders else np.zeros(params[name].shape), jnp.float32)
    updated, optimizer = program.algorithm.update(delta, state.optimizer, {n: params[n] for n in delta})
    held = {n for _, _, _, local in trained for n in local.params}
    params.update({n: v for n, v in updated.items() if n in held})
    for name in stats:
        held_stats = [(w, local.stats) for _, _, w, local in trained if name in local.stats]
        if held_stats and not program.is_private(name):
            stats[name] = jnp.asarray(_pool(name, held_stats), jnp.float32)
    clients = [dict(c) for c in state.clients]
    for group, client, _, local in trained:
        for name in clients[group]:
            value = local.params[name] if name in local.params else local.stats[name]
            clients[group][name] = clients[group][name].at[client].set(value)
    slots = {}
    for m, old in state.relay.items():
        keys, known = np.array(old["keys"], np.float64), np.array(old["known"])
        for slot in np.flatnonzero(relay.counts[m]):
            keys[slot] = relay.sums[m][slot] / np.linalg.norm(relay.sums[m][slot])
            known[slot] = True
        slots[m] = {"keys": jnp.asarray(keys, jnp.float32), "known": jnp.asarray(known)}
    return dataclasses.replace(
        state,
        params=params,
        stats=stats,
        optimizer=optimizer,
        clients=tuple(clients),
        relay=slots,
        round=state.round + 1,
    )


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
