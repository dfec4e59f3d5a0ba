"""The federated round as one jitted function.

``round(state, data, plans, key) -> state, metrics``: shard_map over the mesh axis "clients", a loop over chunks of
clients, ``vmap`` over the chunk, a loop over local steps with a traced bound, weighted sums, one psum, the server's
update. Its memory is that of one chunk, whatever the cohort.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mmfl_jax.engine import moments
from mmfl_jax.engine.local import GroupData, Local, Losses, batch_rows, draw_batch, local_step
from mmfl_jax.engine.plan import GroupPlan
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import ServerState, zeros_like
from mmfl_jax.models import Variables

Array = jax.Array
AXIS = "clients"
Sums = dict[str, Any]


def client_mesh(devices: int = 0) -> Mesh:
    """Return a mesh of one axis, "clients", over the first ``devices`` devices (0: all)."""
    found = jax.devices()
    return Mesh(np.array(found[: devices or len(found)]), (AXIS,))


def empty_sums(program: Program, state: ServerState) -> Sums:
    """Return zeros of everything that a round adds up over clients."""
    keep = lambda variables: {n: v for n, v in variables.items() if not program.is_private(n)}
    return {
        "delta": zeros_like(keep(state.params)),
        "moments": zeros_like(keep(state.stats)),
        "weight": jnp.zeros(len(program.groups)),
        "losses": Losses(*jnp.zeros(3)),
        "steps": jnp.float32(0),
        "skipped": jnp.int32(0),
        "relay": program.relay.empty_sums(state.relay) if program.relay else {},
    }


def client_seeds(key: Array, ids: Array) -> Array:
    """Return a uint32 seed for each client of a round; ``key`` is the round's, ``ids`` number the federation."""
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), dtype=jnp.uint32))(ids)


def start(program: Program, state: ServerState, group: int, private: Variables) -> Local:
    """Return what one client of ``group`` begins a round with, given its ``private`` variables."""
    template = program.templates[group]
    params = {n: private[n] if n in private else state.params[n] for n in template.params}
    stats = {n: private[n] if n in private else state.stats[n] for n in template.stats}
    return Local(params, stats, program.client_optimizer.init(params))


def finite(local: Local) -> Array:
    """Return whether every parameter and statistic of a client is finite."""
    # 0 times x is 0, or NaN. As a product with a vector of zeros it is read at the memory's rate on CPU; a reduction of
    # what isfinite says takes several times as long.
    leaves = [x.astype(jnp.float32) for x in jax.tree.leaves((local.params, local.stats)) if x.size]
    rows = [x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in leaves]
    rest = [jnp.matmul(x, jnp.zeros(x.shape[-1])).sum() for x in rows]
    return functools.reduce(jnp.add, rest, jnp.float32(0)) == 0  # a client may train nothing at all


def add_update(program: Program, group: int, state: ServerState, sums: Sums, local: Local, weight: Array) -> Sums:
    """Return ``sums`` with the weighted updates of a chunk of clients.

    Args:
      program: what is computed.
      group: the clients' group.
      state: what the round began with.
      sums: so far, float32.
      local: the clients after training, leaves ``[chunk, ...]``.
      weight: ``[chunk]``, 0 for clients to be left out, whose values may be anything.
    """
    sent_params, sent_stats = program.sent(group)
    mean_of = lambda x: jnp.tensordot(weight, _masked(weight, x.astype(jnp.float32)), axes=1, precision="highest")
    delta = {n: mean_of(local.params[n] - state.params[n]) for n in sent_params}
    about_centre = jax.vmap(lambda stats: moments.about(state.stats, stats), axis_size=len(weight))
    about = about_centre({n: local.stats[n] for n in sent_stats})
    out = dict(sums)
    out["delta"] = {n: s + delta[n] if n in delta else s for n, s in sums["delta"].items()}
    out["moments"] = {n: s + mean_of(about[n]) if n in about else s for n, s in sums["moments"].items()}
    out["weight"] = sums["weight"].at[group].add(weight.sum())
    return out


def _masked(weight: Array, x: Array) -> Array:
    # A left-out client may hold NaN, and 0 * NaN is NaN.
    return jnp.where((weight > 0).reshape(-1, *[1] * (x.ndim - 1)), x, 0)


def train_chunk(
    program: Program,
    group: int,
    state: ServerState,
    data: GroupData,
    clients: Array,
    steps: Array,
    seeds: Array,
    sums: Sums,
) -> tuple[Local, Array, Sums]:
    """Train one chunk of clients side by side.

    Args:
      program, group, state, data: of the round.
      clients: ``[chunk]`` numbers within the group, -1 for none.
      steps: ``[chunk]`` local steps, 0 for none.
      seeds: ``[chunk]`` of :func:`client_seeds`.
      sums: so far; losses and relay are added to.

    Returns:
      The trained clients, which of them are there and finite ``[chunk]``, and the sums.
    """
    index = jnp.maximum(clients, 0)
    private = {n: v[index] for n, v in state.clients[group].items()}
    local = jax.vmap(lambda p: start(program, state, group, p), axis_size=len(clients))(private)
    received, rate = local.params, program.learning_rate(state.round)
    step_of = jax.vmap(
        lambda r, one, batch: local_step(program, group, r, one, batch, state.relay, rate, state.frozen),
        axis_size=len(clients),
    )

    rows_of = lambda step: jax.vmap(lambda c, s: batch_rows(program, data, c, s, step))(index, seeds)

    def body(step: Array, carry: tuple[Array, Local, Sums]) -> tuple[Array, Local, Sums]:
        rows, before, sums = carry
        active = step < steps
        batch = jax.vmap(lambda c, s, r: draw_batch(program, data, c, s, step, r))(index, seeds, rows)
        after, losses, projections = step_of(received, before, batch)
        if len(clients) > 1:  # a chunk of one runs exactly as long as its client
            after = jax.tree.map(
                lambda new, old: jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old), after, before
            )
        out = dict(sums)
        out["losses"] = Losses(
            *(s + jnp.where(active & jnp.isfinite(x), x, 0).sum() for s, x in zip(sums["losses"], losses))
        )
        out["steps"] = sums["steps"] + active.sum().astype(jnp.float32)
        if program.relay:
            out["relay"] = program.relay.add(sums["relay"], projections, batch.labels, batch.places, active)
        return rows_of(step + 1), after, out

    # Rows are carried from step to step: within a step XLA would compute them anew for every row of pixels.
    _, local, sums = jax.lax.fori_loop(0, steps.max(), body, (rows_of(jnp.int32(0)), local, sums))
    there = clients >= 0
    good = there & jax.vmap(finite, axis_size=len(clients))(local)
    return local, good, {**sums, "skipped": sums["skipped"] + (there & ~good).sum().astype(jnp.int32)}


def train_group(
    program: Program, group: int, state: ServerState, data: GroupData, plan: GroupPlan, key: Array, sums: Sums
) -> tuple[Variables, Sums]:
    """Train one device's share of a group, chunk after chunk.

    Returns:
      The private variables of the plan's clients ``[chunks, chunk, ...]``, and the sums.
    """
    index = jnp.maximum(plan.clients, 0)
    private = {n: v[index] for n, v in state.clients[group].items()}
    seeds = client_seeds(key, data.ids[index.reshape(-1)]).reshape(index.shape)

    def body(i: Array, carry: tuple[Variables, Sums]) -> tuple[Variables, Sums]:
        private, sums = carry
        local, good, sums = train_chunk(program, group, state, data, plan.clients[i], plan.steps[i], seeds[i], sums)
        size = data.sizes[index[i]].astype(jnp.float32)
        weight = jnp.where(good, size if program.weighting == "samples" else 1.0, 0.0)
        sums = add_update(program, group, state, sums, local, weight)
        trained = {**local.params, **local.stats}
        keep = lambda new, old: jnp.where(good.reshape(-1, *[1] * (new.ndim - 1)), new, old)
        return {n: v.at[i].set(keep(trained[n], v[i])) for n, v in private.items()}, sums

    return jax.lax.fori_loop(0, plan.chunks, body, (private, sums))


def train_device(
    program: Program, state: ServerState, data: tuple[GroupData, ...], plans: tuple[GroupPlan, ...], key: Array
) -> tuple[tuple[Variables, ...], Sums]:
    """Train one device's share of the cohort, and add up the sums of all devices along the axis "clients".

    Args:
      program, state, data: of the round.
      plans: a group each, leaves ``[chunks, ...]``.
      key: of the round.

    Returns:
      The private variables of the plans' clients ``[chunks, chunk, ...]`` a group, and the sums over devices.
    """
    sums, private = empty_sums(program, state), []
    for group, plan in enumerate(plans):
        trained, sums = train_group(program, group, state, data[group], plan, key, sums)
        private.append(trained)
    return tuple(private), jax.lax.psum(sums, AXIS)


def train_cohort(
    program: Program,
    mesh: Mesh,
    state: ServerState,
    data: tuple[GroupData, ...],
    plans: tuple[GroupPlan, ...],
    key: Array,
) -> tuple[ServerState, Sums]:
    """Train a cohort, or a wave of it, over the mesh.

    Returns:
      The state with the private variables of these clients replaced and all else as it was, and the sums.
    """

    def device(state: ServerState, data: Any, plans: Any, key: Array) -> Any:
        private, sums = train_device(program, state, data, jax.tree.map(lambda x: x[0], plans), key)
        return jax.tree.map(lambda x: x[None], private), sums

    # check_vma would add psums to the gradients of replicated parameters; here each client's gradient is its own.
    sharded = jax.shard_map(
        device, mesh=mesh, in_specs=(P(), P(), P(AXIS), P()), out_specs=(P(AXIS), P()), check_vma=False
    )
    private, sums = sharded(state, data, plans, jax.random.fold_in(key, state.round))
    return dataclasses.replace(state, clients=keep_private(state, plans, private)), sums


def keep_private(
    state: ServerState, plans: tuple[GroupPlan, ...], private: tuple[Variables, ...]
) -> tuple[Variables, ...]:
    """Return the private variables of all clients, with those of the plans' clients replaced."""
    kept = []
    for old, plan, new in zip(state.clients, plans, private):
        index = plan.clients.reshape(-1)
        rows = {n: v.reshape(-1, *v.shape[3:]) for n, v in new.items()}
        # A place of the plan without a client (-1) points behind the end, where nothing is written.
        kept.append({n: v.at[jnp.where(index < 0, len(v), index)].set(rows[n], mode="drop") for n, v in old.items()})
    return tuple(kept)


def finish(program: Program, state: ServerState, sums: Sums) -> tuple[ServerState, dict[str, Array]]:
    """Return the state after the server's update, and the round's metrics."""

    def mean(name: str, total: Array) -> tuple[Array, Array]:
        weight = sums["weight"][np.array(program.contributors(name), np.int32)].sum()
        return total / jnp.where(weight > 0, weight, 1), weight > 0

    delta, seen = {}, {}
    for name, total in sums["delta"].items():
        delta[name], seen[name] = mean(name, total)
    params = {n: state.params[n] for n in delta}
    updated, optimizer = program.algorithm.update(delta, state.optimizer, params)
    # What nobody in the cohort holds stays, also under a server optimizer with momentum.
    updated = {n: jnp.where(seen[n], updated[n], params[n]) for n in params}
    averaged = {n: mean(n, total) for n, total in sums["moments"].items()}
    pooled = moments.pooled(state.stats, {n: m for n, (m, _) in averaged.items()})
    stats = {n: jnp.where(averaged[n][1], pooled[n], state.stats[n]) for n in pooled}
    steps = jnp.maximum(sums["steps"], 1)
    metrics = {"loss": sums["losses"].total / steps, "task_loss": sums["losses"].task / steps}
    metrics["mim_loss"] = sums["losses"].mim / steps
    metrics["skipped_clients"] = sums["skipped"]
    relay = program.relay.update(state.relay, sums["relay"]) if program.relay else state.relay
    new = dataclasses.replace(
        state,
        params={**state.params, **updated},
        stats={**state.stats, **stats},
        optimizer=optimizer,
        relay=relay,
        round=state.round + 1,
    )
    return new, metrics


def make_round(program: Program, mesh: Mesh) -> Any:
    """Return ``round(state, data, plans, key) -> state, metrics``, jitted, the state donated.

    Args:
      program: what is computed.
      mesh: of one axis, "clients" (:func:`client_mesh`).
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def federated_round(
        state: ServerState, data: tuple[GroupData, ...], plans: tuple[GroupPlan, ...], key: Array
    ) -> tuple[ServerState, dict[str, Array]]:
        return finish(program, *train_cohort(program, mesh, state, data, plans, key))

    return federated_round
