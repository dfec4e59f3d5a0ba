"""Homes of clients, and the plans of rounds in which each trains at home."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmfl_jax.engine.plan import Planner
from mmfl_jax.federation.placement import Placement, best_span


def test_planner_counts_the_padding_it_makes():
    steps = [np.array([10, 1, 5, 4])]
    planner = Planner(steps, [2], Placement.of(steps, steps, 1), most=[4])
    (plan,), work = planner.lay([np.arange(4)])
    assert plan.clients[0].tolist() == [0, 2, 3, 1]
    assert plan.steps[0].tolist() == [10, 5, 4, 1]
    # One seat has the client of ten steps, the other those of five, four and one.
    assert work.metrics() == {"clients": 4, "client_steps": 20, "padding_waste": 0}
    assert work.turns.tolist() == [[3]]  # as soon as nobody waits, all go on until the last has ended
    (_,), work = Planner(steps, [3], planner.placement, most=[4]).lay([np.arange(4)])
    assert work.metrics()["padding_waste"] == pytest.approx(1 - 20 / 30)


def test_clients_are_dealt_to_devices_longest_first():
    steps = [np.array([9, 5, 4, 1])]
    placement = Placement.of(steps, steps, 2)
    planner = Planner(steps, [1], placement, most=[4])
    (plan,), work = planner.lay([np.arange(4)])
    assert [plan.steps[d].sum() for d in range(2)] == [10, 9]
    assert [placement.groups[0].clients(d).tolist() for d in range(2)] == [[0, 3], [1, 2]]
    assert work.turns.tolist() == [[2, 2]]
    assert work.metrics()["imbalance"] == pytest.approx(10 / 9.5)
    assert work.metrics()["idle_devices"] == pytest.approx(1 - 9.5 / 10)
    (plan,), work = planner.lay([np.array([1, 2])])  # both live on one device
    assert plan.clients.tolist() == [[-1, -1], [0, 1]]
    assert work.turns.tolist() == [[0, 2]]
    assert work.metrics()["imbalance"] == 2


@given(
    st.lists(st.lists(st.integers(1, 10**6), min_size=1, max_size=40), min_size=1, max_size=3),
    st.integers(1, 9),
    st.randoms(use_true_random=False),
)
def test_every_client_has_one_home_and_every_member_one_seat(sizes, devices, random):
    sizes = [np.array(values) for values in sizes]
    placement = Placement.of(sizes, sizes, devices)
    for homes, values in zip(placement.groups, sizes):
        rows = homes.positions
        assert len(set(rows.tolist())) == len(values)
        assert homes.there[rows].all()
        assert homes.there.sum() == len(values)
        assert all((homes.device[homes.clients(d)] == d).all() for d in range(devices))
    members = [np.array(sorted(random.sample(range(len(v)), random.randint(0, len(v)))), np.int64) for v in sizes]
    chunk = [random.randint(1, len(values)) for values in sizes]
    plans, work = Planner(sizes, chunk, placement, [len(v) for v in sizes]).lay(members)
    for plan, homes, chosen, values in zip(plans, placement.groups, members, sizes):
        device, _ = there = np.nonzero(plan.clients >= 0)
        found = [homes.clients(d)[row] for d, row in zip(device, plan.clients[there])]
        assert sorted(found) == chosen.tolist()
        assert np.array_equal(plan.steps[there], values[np.array(found, np.int64)])
        assert np.array_equal(chosen[plan.slots[there]], np.array(found, np.int64))
    assert work.clients == sum(map(len, members))
    assert work.computed >= work.steps


def test_homes_share_the_work():
    steps = [np.random.default_rng(0).pareto(1.5, 1000).astype(np.int64) + 1 for _ in range(2)]
    placement = Placement.of(steps, steps, 16)
    loads = sum(np.bincount(homes.device, work, 16) for homes, work in zip(placement.groups, steps))
    assert loads.max() <= max(1.02 * loads.mean(), max(work.max() for work in steps))


@pytest.mark.parametrize(
    ("sizes", "devices", "batch", "cohort", "span"),
    [
        ([100] * 1000, 8, 16, 1000, 1),  # clients for everybody
        ([100] * 4, 16, 16, 4, 4),  # four clients, four devices each
        ([100] * 4, 16, 6, 4, 2),  # a batch of six cannot be shared by four
        ([100] * 40, 16, 16, 4, 4),  # four of forty in a round
        ([1000, 10, 10, 10], 8, 16, 4, 8),  # one client has all the work
        ([100] * 16, 16, 16, 16, 1),
        ([100], 1, 16, 1, 1),
    ],
)
def test_clients_span_devices_where_they_are_few(sizes, devices, batch, cohort, span):
    sizes = [np.array(sizes)]
    assert best_span(sizes, sizes, devices, batch, cohort) == span
