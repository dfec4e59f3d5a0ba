"""Turns: every client takes its steps once, in one seat, and what the host counts is what a device does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import ragged_federation, simulation
from hypothesis import given, settings
from hypothesis import strategies as st
from test_round import assert_close, in_order

from mmfl_jax.engine import turns
from mmfl_jax.engine.reference import reference_round

PLACES, TURNS = 14, 400


@functools.partial(jax.jit, static_argnums=2)
def recorded(steps, count, seats, multiple):
    """Return the seats of every turn and its steps, as a device takes them, and how many turns there are."""

    def turn(carry):
        i, now, seen = carry
        now = turns.seated(now, steps, count)
        length = turns.length(now, count, multiple)
        seen = jax.tree.map(lambda all, x: all.at[i].set(x), seen, (now, length))
        return i + 1, now._replace(done=now.done + length), seen

    first = turns.empty(seats)
    seen = jax.tree.map(lambda x: jnp.zeros((TURNS, *x.shape), jnp.int32), (first, jnp.int32(0)))
    number, _, seen = jax.lax.while_loop(lambda c: turns.go_on(c[1], count), turn, (jnp.int32(0), first, seen))
    return number, seen


def taken(steps, seats, multiple):
    """Return ``(place, first step, steps, ended)`` of every seat in every turn, and the number and steps of turns."""
    queue = jnp.zeros(PLACES, jnp.int32).at[: len(steps)].set(jnp.asarray(steps, jnp.int32))
    number, (now, lengths) = jax.device_get(recorded(queue, jnp.int32(len(steps)), seats, jnp.int32(multiple)))
    seen = [
        (int(place), int(done), int(min(length, whole - done)), bool(done + length >= whole))
        for row in zip(now.place[:number], now.steps[:number], now.done[:number], lengths[:number])
        for place, whole, done, length in zip(*np.broadcast_arrays(*row))
        if place >= 0
    ]
    return seen, int(number), int(lengths.sum())


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), max_size=12), st.integers(1, 4), st.integers(1, 12))
def test_every_client_takes_its_steps_in_one_go(steps, seats, multiple):
    steps = sorted(steps, reverse=True)
    seen, number, total = taken(steps, seats, multiple)
    for place, whole in enumerate(steps):
        own = [(done, length, ended) for p, done, length, ended in seen if p == place]
        assert [done for done, _, _ in own] == np.cumsum([0, *(length for _, length, _ in own[:-1])]).tolist()
        assert sum(length for _, length, _ in own) == whole
        assert [ended for _, _, ended in own] == [False] * (len(own) - 1) + [True]
    found = turns._counted(np.array([[*steps, 0, 0]], np.int32), np.array([len(steps)]), seats, np.array([multiple]))
    assert (int(found.turns[0]), int(found.steps[0])) == (number, total)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), max_size=PLACES), min_size=1, max_size=3), st.integers(1, 4))
def test_a_schedule_is_what_its_turns_come_to_and_no_worse_than_whole_chunks(queues, seats):
    steps = np.zeros((len(queues), PLACES), np.int32)
    for home, queue in enumerate(queues):
        steps[home, : len(queue)] = sorted(queue, reverse=True)
    count = np.array([len(queue) for queue in queues])
    found = turns.scheduled(steps, count, seats)
    whole = steps[:, ::seats].sum(axis=1) + -(-count // seats)
    assert (found.steps + found.turns <= whole).all()
    for home, queue in enumerate(queues):
        _, number, total = taken(sorted(queue, reverse=True), seats, found.multiple[home])
        assert (number, total) == (int(found.turns[home]), int(found.steps[home]))


def test_unlike_clients_leave_few_seats_empty():
    steps = np.sort(np.random.default_rng(0).lognormal(4, 1, 100).astype(np.int32))[::-1][None].copy()
    found = turns.scheduled(steps, np.array([100]), 16)
    soonest = max(steps.max(), steps.sum() / 16)
    assert found.steps[0] <= 1.1 * soonest
    assert steps[:, ::16].sum() > 1.3 * soonest


@pytest.mark.parametrize("algorithm", ["fedavg", "scaffold", "median"])
def test_a_round_in_turns_equals_the_loop(algorithm):
    sizes = [60, 7, 35, 3, 40, 30, 9, 20, 12]
    held = [("s1",)] * 6 + [("s2",)] * 3
    federation = ragged_federation(sizes, held)
    sim = simulation(federation, method="mf+fw+mim", private="norm", algorithm=algorithm, chunk_size=3, batch_size=4)
    (plan, _), work = sim.execution.planner.lay(sim.cohort(0).members)
    assert plan.multiple[0] < turns.WHOLE
    sim.compile()
    members, steps = sim.cohort(0).members, sim.cohort(0).steps
    state = jax.tree.map(jnp.array, sim.state)
    expected = reference_round(sim.program, state, sim.execution.data, members, steps, sim._key)
    found = sim.run_round()
    assert found["padding_waste"] == pytest.approx(work.metrics()["padding_waste"])
    # Where rounding decides the sign of a ReLU's input it goes through fifteen steps.
    assert_close(in_order(sim), jax.device_get(expected), 1e-4, kept=1e-3)
