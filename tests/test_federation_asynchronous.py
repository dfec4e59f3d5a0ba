"""The schedule of buffered asynchronous rounds: what it promises, and what it comes to in the plain cases."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.errors import UserError
from mmfl_jax.federation.asynchronous import Schedule
from mmfl_jax.federation.participation import sample_cohort


def rounds(schedule, number, first=0):
    return list(itertools.islice(schedule.rounds(first), number))


def speeds(clients, sigma=1.0, seed=0):
    return np.random.default_rng(seed).lognormal(0, sigma, clients)


@st.composite
def schedules(draw):
    clients = draw(st.integers(1, 25))
    buffer = draw(st.integers(1, clients))
    max_delay = draw(st.integers(0, 6))
    concurrency = draw(st.integers(1, min(clients, buffer * (max_delay + 1))))
    # A few values: so that several end in the same instant, and some are a thousand times slower.
    seconds = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.5, 1000.0]), min_size=clients, max_size=clients))
    dropout = draw(st.sampled_from([0.0, 0.3]))
    return Schedule.of(seconds, concurrency, buffer, max_delay, dropout=dropout, seed=draw(st.integers(0, 99)))


@settings(max_examples=300, deadline=None)
@given(schedule=schedules())
def test_promises_hold(schedule):
    found = rounds(schedule, 40)
    began = [0.0] * (len(found) + 1)  # when each version came to be
    last = np.full(len(schedule.seconds), -1)
    asked: Counter[int] = Counter()
    for version, (members, delays, when, begun) in enumerate(found):
        assert len(members) == len(delays) == schedule.buffer
        assert members.tolist() == sorted(set(members.tolist()))
        assert 0 <= delays.min() <= delays.max() <= schedule.max_delay
        assert when >= began[version]
        began[version + 1] = when
        started = version - delays
        assert started.min() >= 0
        # It began after its last update was aggregated, and took its time.
        assert (started > last[members]).all()
        assert all(when >= began[s] + schedule.seconds[m] - 1e-9 for s, m in zip(started, members))
        last[members] = version
        asked.update(begun.tolist())
        asked.subtract(members.tolist())
        assert min(asked.values()) >= 0  # nobody reports who has not begun
        assert schedule.dropout or sum(asked.values()) <= schedule.concurrency + schedule.buffer * schedule.max_delay


@settings(max_examples=50, deadline=None)
@given(schedule=schedules(), first=st.integers(0, 20))
def test_a_schedule_resumes_where_it_stopped(schedule, first):
    whole = rounds(schedule, first + 5)[first:]
    for before, after in zip(whole, rounds(schedule, 5, first), strict=True):
        assert before.time == after.time
        np.testing.assert_array_equal(before.members, after.members)
        np.testing.assert_array_equal(before.delays, after.delays)


def test_without_delay_the_rounds_are_those_of_fedavg():
    """Whatever the speeds: every round has the cohort of the synchronous one, and takes as long as its slowest."""
    seconds = speeds(50)
    clock = 0.0
    for number, (members, delays, when, begun) in enumerate(rounds(Schedule.of(seconds, 8, 8, 0, seed=5), 30)):
        assert members.tolist() == sample_cohort(50, 8, 5, number).tolist()
        assert not delays.any()
        assert sorted(begun.tolist()) == members.tolist()
        clock += seconds[members].max()
        assert when == pytest.approx(clock)
    everybody = rounds(Schedule.of(seconds, 50, 50, 0), 3)
    assert all(made.members.tolist() == list(range(50)) for made in everybody)


def test_equal_speeds_make_synchronous_rounds_without_waiting():
    for number, (members, delays, when, begun) in enumerate(rounds(Schedule.of(np.full(50, 3.0), 8, 8, 9, seed=5), 30)):
        assert members.tolist() == sample_cohort(50, 8, 5, number).tolist()
        assert not delays.any()
        assert sorted(begun.tolist()) == members.tolist()
        assert when == 3.0 * (number + 1)


def test_more_clients_than_the_buffer_holds_are_stale_by_their_ratio():
    """By Little's law, updates under way = buffer x (mean delay + 1), but for those that end in the same instant."""
    for concurrency, buffer in ((40, 10), (30, 3)):
        found = rounds(Schedule.of(speeds(500, 0.7), concurrency, buffer, 400), 600)[200:]
        mean = np.mean([made.delays.mean() for made in found])
        # A client that begins after a step sees less than a whole step more.
        assert concurrency / buffer - 1 <= mean + 0.5
        assert mean <= concurrency / buffer


def test_slow_clients_are_stale_and_fast_ones_report_more_often():
    seconds = np.where(np.arange(60) < 30, 1.0, 8.0) * np.linspace(1, 1.1, 60)
    found = rounds(Schedule.of(seconds, 20, 5, 100), 2000)
    members, delays = (np.concatenate(values) for values in list(zip(*found))[:2])
    assert delays[members >= 30].mean() > 4 * delays[members < 30].mean()
    assert (np.bincount(members, minlength=60) > 0).all()


def test_the_cap_makes_the_server_wait_and_nothing_is_lost():
    seconds = np.array([100.0, *np.full(9, 1.0)])
    free, capped = (rounds(Schedule.of(seconds, 10, 2, cap), 400) for cap in (200, 4))
    assert max(made.delays.max() for made in free) > 100
    assert max(made.delays.max() for made in capped) == 4
    # The slow client is in every few rounds, and they wait for it; without the cap it is in as many as its time allows.
    slow = sum(0 in made.members for made in capped)
    assert slow > 30
    assert capped[-1].time >= 100 * slow
    assert capped[-1].time > 10 * free[-1].time
    assert abs(sum(0 in made.members for made in free) - free[-1].time / 100) <= 1


def test_dropped_clients_are_replaced():
    schedule = Schedule.of(speeds(200), 20, 10, 4, dropout=0.5, seed=1)
    plain = Schedule.of(speeds(200), 20, 10, 4, seed=1)
    assert 1.5 < rounds(schedule, 400)[-1].time / rounds(plain, 400)[-1].time < 3


def test_seeds_differ():
    drawn = {tuple(rounds(Schedule.of(speeds(50), 8, 4, 3, seed=s), 3)[-1].members.tolist()) for s in range(6)}
    assert len(drawn) > 3


def test_cost_does_not_grow_with_the_federation():
    begin = time.process_time()
    rounds(Schedule.of(speeds(300_000), 1000, 100, 20), 200)
    assert time.process_time() - begin < 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((3, 4, 1, {}), "--buffer 4: needs 1 to 3, the clients of the federation"),
        ((3, 0, 1, {}), "--buffer 0: needs 1 to 3"),
        ((4, 2, 1, {}), "--concurrency 4: needs 1 to 3, the clients of the federation"),
        ((0, 2, 1, {}), "--concurrency 0: needs 1 to 3"),
        ((2, 2, -1, {}), "--max-delay -1: needs 0 or more"),
        (
            (3, 1, 1, {}),
            "--concurrency 3: at most 2 clients can be aggregated within --max-delay 1 by a buffer of 1",
        ),
        ((2, 2, 1, {"dropout": 1.0}), "--dropout 1 is no share; from 0 to below 1"),
    ],
)
def test_schedule_that_cannot_be(options, message):
    concurrency, buffer, max_delay, more = options
    with pytest.raises(UserError) as error:
        Schedule.of([1.0, 2.0, 3.0], concurrency, buffer, max_delay, **more)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("wrong", [-1.0, np.inf, np.nan])
def test_time_that_cannot_be(wrong):
    with pytest.raises(UserError, match=f"client 1 takes {wrong:g} seconds; a finite time of 0 or more is needed"):
        Schedule.of([1.0, wrong], 1, 1, 0)
