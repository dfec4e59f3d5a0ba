"""The federated round as one jitted function.

``round(state, data, plans, key) -> state, metrics``: shard_map over the mesh axis "clients", a loop over turns of a
chunk of clients, ``vmap`` over the chunk, a loop over local steps with a traced bound, weighted sums, one psum, the
server's update. Its memory is that of one chunk, whatever the cohort; a reduction that sees the cohort stacked adds the
cohort's messages.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from mmfl_jax.algorithms.reduce import present
from mmfl_jax.engine import server, turns
from mmfl_jax.engine.batches import GroupData, batch_rows, data_specs, draw_batch
from mmfl_jax.engine.client import Client, Facts, Training, begin, end, first_client, local_step
from mmfl_jax.engine.mesh import AXIS, platform_of
from mmfl_jax.engine.plan import GroupPlan
from mmfl_jax.engine.program import Program
from mmfl_jax.engine.state import Kept, ServerState
from mmfl_jax.ops.platform import compiled_for

Array = jax.Array
Sums = dict[str, Any]


def client_seeds(key: Array, ids: Array) -> Array:
    """Return a uint32 seed for each client of a round; ``key`` is the round's, ``ids`` number the federation."""
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), dtype=jnp.uint32))(ids)


def finite(tree: Any) -> Array:
    """Return whether every number of ``tree`` is finite."""
    # 0 times x is 0, or NaN. As a product with a vector of zeros it is read at the memory's rate on CPU; a reduction of
    # what isfinite says takes several times as long.
    leaves = [x.astype(jnp.float32) for x in jax.tree.leaves(tree) if x.size]
    rows = [x.reshape(-1, x.shape[-1] if x.ndim else 1) for x in leaves]
    rest = [jnp.matmul(x, jnp.zeros(x.shape[-1])).sum() for x in rows]
    return functools.reduce(jnp.add, rest, jnp.float32(0)) == 0  # a client may train nothing at all


def rows_where(condition: Array, new: Any, old: Any) -> Any:
    """Return the rows of ``new`` where ``condition [chunk]`` holds, those of ``old`` elsewhere."""
    where = lambda a, b: jnp.where(condition.reshape(-1, *[1] * (a.ndim - 1)), a, b)
    return jax.tree.map(where, new, old)


def train_turn(
    program: Program,
    group: int,
    state: ServerState,
    data: GroupData,
    facts: Facts,
    seats: turns.Seats,
    clients: Array,
    steps: Array,
    kept: Kept,
    now: Training | tuple[()],
    sums: Sums,
) -> tuple[Training | tuple[()], Any, Kept, Array, Sums]:
    """Train a chunk of clients side by side until some of them end.

    Args:
      program, group, state, data: of the round.
      facts: of the clients, ``[chunk]`` each.
      seats: of the chunk.
      clients: ``[chunk]`` rows of the home device.
      steps: local steps of the turn.
      kept: what the clients keep, ``[chunk, ...]``.
      now: the clients that have begun already.
      sums: so far; losses and the objectives' sums are added to.

    Returns:
      The clients now (of a chunk of one nothing: nobody goes on); messages; what clients keep; which of them have
      ended and are finite ``[chunk]``, so that both count; and the sums.
    """
    each = lambda function: jax.vmap(function, axis_size=len(clients))
    client = lambda kept, facts: Client(program, group, state, kept, facts)
    rows_of = lambda step: jax.vmap(functools.partial(batch_rows, program, data))(clients, facts.seed, step)
    draw = lambda step, rows: jax.vmap(functools.partial(draw_batch, program, data))(clients, facts.seed, step, rows)
    rows = rows_of(seats.done)
    begun = each(lambda k, f, b: begin(client(k, f), b))(kept, facts, draw(seats.done, rows))
    # A chunk of one has no other seats: who is there begins and ends in this turn.
    alone = len(clients) == 1
    now = begun if alone else rows_where(seats.done == 0, begun, now)

    def body(i: Array, carry: tuple[Array, Training, Sums]) -> tuple[Array, Training, Sums]:
        rows, before, sums = carry
        step = seats.done + i
        active = step < facts.steps
        batch = draw(step, rows)
        after, losses, output = each(lambda k, f, n, s, b: local_step(client(k, f), n, s, b))(
            kept, facts, before, step, batch
        )
        if not alone:
            after = rows_where(active, after, before)
        counted = lambda s, x: s + jnp.where(active & jnp.isfinite(x), x, 0).sum()
        out = {**sums, "losses": {n: counted(s, losses[n]) for n, s in sums["losses"].items()}}
        out["steps"] = sums["steps"] + (active & jnp.isfinite(losses["loss"])).sum().astype(jnp.float32)
        out["objectives"] = {
            o.name: o.add(sums["objectives"][o.name], output, batch, active) for o in program.objectives
        }
        return rows_of(step + 1), after, out

    # Rows are carried from step to step: within a step XLA would compute them anew for every row of pixels.
    _, now, sums = jax.lax.fori_loop(0, steps, body, (rows, now, sums))
    message, new = each(lambda k, f, n: end(client(k, f), n))(kept, facts, now)
    ended = (seats.place >= 0) & (seats.done + steps >= facts.steps)
    good = ended & each(lambda m, k: finite((m, k["variables"])))(message, new)
    sums = {**sums, "skipped": sums["skipped"] + (ended & ~good).sum()}
    return () if alone else now, message, new, good, sums


def add_messages(program: Program, group: int, sums: Sums, message: Any, weight: Array, slots: Array) -> Sums:
    """Return ``sums`` with the messages of a chunk of clients.

    Args:
      program: what is computed.
      group: the clients' group.
      sums: so far.
      message: leaves ``[chunk, ...]``.
      weight: ``[chunk]``, 0 for clients to be left out, whose values may be anything.
      slots: ``[chunk]`` places in the cohort, for reductions that see it stacked.
    """
    out = {**sums, "weight": sums["weight"].at[group].add(weight.sum())}
    out["count"] = sums["count"].at[group].add((weight > 0).sum().astype(jnp.float32))
    if program.algorithm.reduce.combine is not None:
        placed = jnp.where(weight > 0, slots, sums["there"][group].shape[0])
        put = lambda s, x: s.at[placed].set(present(weight, x.astype(jnp.float32)), mode="drop")
        stack = jax.tree.map(put, sums["stack"][group], message)
        out["stack"] = tuple(stack if g == group else s for g, s in enumerate(sums["stack"]))
        there = sums["there"][group].at[placed].set(weight, mode="drop")
        out["there"] = tuple(there if g == group else t for g, t in enumerate(sums["there"]))
        return out
    add = program.algorithm.reduce.add
    relative = weight / program.largest if program.algorithm.reduce.relative else weight
    out["message"] = {
        field: {n: add(t, message[field][n], relative) if n in message[field] else t for n, t in totals.items()}
        for field, totals in sums["message"].items()
    }
    return out


def train_group(
    program: Program,
    group: int,
    state: ServerState,
    data: GroupData,
    plan: GroupPlan,
    key: Array,
    sums: Sums,
) -> tuple[Kept, Sums]:
    """Train the cohort's clients of a group on one device, turn after turn.

    Returns:
      What the device's clients keep, written in place, and the sums.
    """
    plan = jax.tree.map(jnp.asarray, plan)
    count = (plan.clients >= 0).sum(dtype=jnp.int32)
    index = jnp.maximum(plan.clients, 0)
    seeds = client_seeds(key, data.ids[index])

    def turn(carry: Any) -> Any:
        seats, now, table, sums = carry
        seats = turns.seated(seats, plan.steps, count)
        steps, place = turns.length(seats, count, plan.multiple), jnp.maximum(seats.place, 0)
        clients, row = index[place], plan.kept[place]  # of an empty seat somebody's, which nobody looks at
        attack = None if data.attack is None else data.attack[clients]
        size = data.sizes[clients].astype(jnp.float32)
        server = jnp.zeros_like(clients) if data.servers is None else data.servers[clients]
        facts = Facts(size, seats.steps, seeds[place], plan.delays[place], server, attack)
        kept = jax.tree.map(lambda v: v[row], table)
        now, message, new, good, sums = train_turn(
            program, group, state, data, facts, seats, clients, steps, kept, now, sums
        )
        weight = jnp.where(good, size if program.weighting == "samples" else 1.0, 0.0)
        sums = add_messages(program, group, sums, message, weight, plan.slots[place])
        return seats._replace(done=seats.done + steps), now, placed(table, jnp.where(good, row, -1), new), sums

    seats, now = turns.empty(plan.chunk), begun_by_nobody(program, group, state, data, plan.chunk)
    carry = seats, now, state.clients[group], sums
    return jax.lax.while_loop(lambda carry: turns.go_on(carry[0], count), turn, carry)[2:]


def begun_by_nobody(
    program: Program, group: int, state: ServerState, data: GroupData, chunk: int
) -> Training | tuple[()]:
    """Return zeros of what clients of a chunk carry from turn to turn."""
    if chunk == 1:
        return ()

    def one() -> Training:
        client, batch = first_client(program, group, state, data)
        return begin(client, batch)

    return jax.tree.map(lambda x: jnp.zeros((chunk, *x.shape), x.dtype), jax.eval_shape(one))


def placed(table: Kept, rows: Array, new: Kept) -> Kept:
    """Return ``table`` with these rows replaced; -1 points behind the end, where nothing is written."""
    put = lambda v, x: v.at[jnp.where(rows < 0, len(v), rows)].set(x, mode="drop")
    return jax.tree.map(put, table, new)


def train_device(
    program: Program,
    state: ServerState,
    data: tuple[GroupData, ...],
    plans: tuple[GroupPlan, ...],
    key: Array,
    cohort: tuple[int, ...],
) -> tuple[tuple[Kept, ...], Sums]:
    """Train the cohort's clients of one home, and add up the sums of all homes along the axis "clients".

    Args:
      program: of the round.
      state: of the round, with what the device's own clients keep.
      data: of the device's own clients.
      plans: the device's, a group each, leaves ``[places]``.
      key: of the round.
      cohort: the most clients of each group in a round.

    Returns:
      What the device's clients keep, a group each, and the sums over devices.
    """
    sums, kept = server.empty_sums(program, state, data, cohort), []
    for group, plan in enumerate(plans):
        table, sums = train_group(program, group, state, data[group], plan, key, sums)
        kept.append(table)
    return tuple(kept), jax.lax.psum(sums, AXIS)


def train_cohort(
    program: Program,
    mesh: Mesh,
    cohort: tuple[int, ...],
    state: ServerState,
    data: tuple[GroupData, ...],
    plans: tuple[GroupPlan, ...],
    key: Array,
) -> tuple[ServerState, Sums]:
    """Train a cohort, or a wave of it, over the mesh: each client on its home device.

    Returns:
      The state with what these clients keep replaced and all else as it was, and the sums.
    """

    def device(state: ServerState, data: Any, plans: Any, key: Array) -> Any:
        with compiled_for(platform_of(mesh)):
            return train_device(program, state, data, jax.tree.map(lambda x: x[0], plans), key, cohort)

    # check_vma would add psums to the gradients of replicated parameters; here each client's gradient is its own.
    sharded = jax.shard_map(
        device,
        mesh=mesh,
        in_specs=(state_specs(), tuple(data_specs() for _ in data), P(AXIS), P()),
        out_specs=(P(AXIS), P()),
        check_vma=False,
    )
    kept, sums = sharded(state, data, plans, jax.random.fold_in(key, state.round))
    return dataclasses.replace(state, clients=kept), sums


def state_specs() -> ServerState:
    """Return how the parts of a state lie over the mesh: what clients keep at their homes, all else everywhere."""
    everywhere: Any = P()
    fields = {field.name: everywhere for field in dataclasses.fields(ServerState)}
    return ServerState(**{**fields, "clients": P(AXIS)})


def make_round(program: Program, mesh: Mesh, cohort: tuple[int, ...]) -> Any:
    """Return ``round(state, data, plans, key) -> state, metrics``, jitted, the state donated.

    Args:
      program: what is computed.
      mesh: the devices (:func:`mmfl_jax.engine.mesh.client_mesh`).
      cohort: the most clients of each group in a round.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def federated_round(
        state: ServerState, data: tuple[GroupData, ...], plans: tuple[GroupPlan, ...], key: Array
    ) -> tuple[ServerState, dict[str, Array]]:
        return server.finish(program, *train_cohort(program, mesh, cohort, state, data, plans, key), key)

    return federated_round
