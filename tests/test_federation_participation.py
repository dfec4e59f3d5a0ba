"""Who takes part in a round, drops out of it, or lags."""

import numpy as np
import pytest
from federations import ragged_federation
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.errors import UserError
from mmfl_jax.federation.draws import Stream
from mmfl_jax.federation.participation import CohortRule, Participation, read_participation, sample_cohort


def federation(clients=60):
    """Two thirds of the clients hold s1, the others s2."""
    return ragged_federation([2] * clients, [("s1",), ("s1",), ("s2",)] * (clients // 3))


FEDERATION = federation()


def participation(reference="all", **options):
    return Participation.of(FEDERATION, reference, **options)


def test_no_two_streams_are_one():
    assert len({stream.value for stream in Stream}) == len(Stream.__members__)


def test_all_are_everybody():
    for reference in ("all", "1.0", "60"):
        made = participation(reference)
        assert made.chosen(3).tolist() == made.members(3).tolist() == list(range(60))
        assert (made.expected, made.most) == (60, (40, 20))


def test_strata_give_equal_parts_and_have_like_work():
    steps = [np.arange(1, 41), np.arange(1, 21)]
    made = participation("stratified:4:12", steps=steps)
    work = np.concatenate(steps)[np.argsort(np.concatenate(made.groups))]
    loads = np.bincount(made.strata, work)
    assert loads.max() <= 1.1 * loads.min()
    drawn = [made.chosen(number) for number in range(200)]
    for chosen in drawn:
        assert np.bincount(made.strata[chosen], minlength=4).tolist() == [3, 3, 3, 3]
    assert len(np.unique(np.concatenate(drawn))) == 60
    assert (made.expected, made.largest, made.most) == (12, 12, (12, 12))
    assert made.chosen(7).tolist() == participation("stratified:4:12", steps=steps).chosen(7).tolist()


def test_a_number_draws_what_runs_have_always_drawn():
    made = participation("10", seed=4)
    for number in range(5):
        expected = np.sort(np.random.default_rng([4, 3, number]).choice(60, 10, replace=False))
        assert made.members(number).tolist() == expected.tolist()
        assert sample_cohort(60, 10, 4, number).tolist() == expected.tolist()
    assert (made.expected, made.most) == (10, (10, 10))
    assert sample_cohort(5, 0, 0, 0).tolist() == sample_cohort(5, 9, 0, 0).tolist() == [0, 1, 2, 3, 4]


def test_a_share_is_each_clients_own_coin():
    made = participation("0.1", seed=1)
    cohorts = [made.members(number) for number in range(3000)]
    counts = np.array([len(cohort) for cohort in cohorts])
    often = np.bincount(np.concatenate(cohorts), minlength=60) / 3000
    assert np.abs(often - 0.1).max() < 5 * np.sqrt(0.09 / 3000)
    # Binomial: the variance that no draw of a fixed number has. Now and then nobody comes.
    assert abs(counts.mean() - made.expected) < 5 * np.sqrt(5.4 / 3000)
    assert abs(counts.var() - 5.4) < 0.8
    assert counts.min() == 0
    assert made.members(int(counts.argmin())).tolist() == []
    assert made.most == (40, 20)


def test_per_group_takes_as_many_of_each_group():
    made = participation("per-group:25", seed=2)
    for number in range(20):
        inside = made.by_group(made.members(number))
        assert [len(group) for group in inside] == [25, 20]
    assert (made.most, made.expected) == ((25, 20), 45)
    often = np.bincount(np.concatenate([made.members(n) for n in range(2000)]), minlength=60) / 2000
    assert np.abs(often[FEDERATION.groups[0].ids] - 25 / 40).max() < 0.06
    assert (often[FEDERATION.groups[1].ids] == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    reference=st.sampled_from(["all", "0.3", "17", "per-group:3"]),
    dropout=st.sampled_from([0.0, 0.4]),
    seed=st.integers(0, 9),
    number=st.integers(0, 10_000),
)
def test_a_round_is_drawn_by_its_seed_and_number_alone(reference, dropout, seed, number):
    made = participation(reference, dropout=dropout, seed=seed)
    members = made.members(number)
    made.members(number + 1)
    again = participation(reference, dropout=dropout, seed=seed).members(number)
    assert members.tolist() == again.tolist() == sorted(set(members.tolist()))
    assert set(members.tolist()) <= set(made.chosen(number).tolist()) <= set(range(60))
    inside = made.by_group(members)
    back = np.concatenate([group.ids[chosen] for group, chosen in zip(FEDERATION.groups, inside)])
    assert np.sort(back).tolist() == members.tolist()
    assert all(len(chosen) <= most for chosen, most in zip(inside, made.most))


def test_seeds_and_rounds_differ():
    drawn = {tuple(participation("0.5", seed=s).members(r).tolist()) for s in range(5) for r in range(5)}
    assert len(drawn) == 25


def test_dropout_takes_its_share_of_the_chosen():
    made = participation("20", dropout=0.25, seed=3)
    stayed = np.array([len(made.members(number)) for number in range(2000)])
    assert abs(stayed.mean() - 15) < 0.3
    assert made.expected == 15
    assert stayed.max() <= 20
    # A coin is the client's own: it does not depend on who else was asked.
    everybody = participation("all", dropout=0.25, seed=3).members(7)
    assert made.members(7).tolist() == np.intersect1d(made.chosen(7), everybody).tolist()


def test_everybody_may_drop_out():
    made = participation("1", dropout=0.9)
    assert min(len(made.members(number)) for number in range(50)) == 0


def test_stragglers_do_a_share_of_their_steps():
    made = participation("30", stragglers=0.4, seed=5)
    shares = []
    for number in range(400):
        members = made.members(number)
        full = np.full(len(members), 1000)
        done = made.steps(number, members, full)
        assert done.dtype == full.dtype
        np.testing.assert_array_equal(done, made.steps(number, members, full))
        shares.append(done / 1000)
    found = np.concatenate(shares)
    slow = found[found < 1]
    assert abs(len(slow) / len(found) - 0.4) < 0.03
    assert slow.min() < 0.01
    assert slow.max() > 0.99
    assert abs(slow.mean() - 0.5) < 0.02


def test_a_straggler_does_at_least_one_step():
    made = participation("all", stragglers=1.0)
    assert set(made.steps(0, np.arange(60), np.full(60, 3)).tolist()) == {1, 2}
    plain = participation("all")
    assert plain.steps(0, np.arange(60), np.arange(60)).tolist() == list(range(60))


def test_a_stragglers_steps_do_not_depend_on_who_else_came():
    made = participation("all", stragglers=0.5)
    everybody = made.steps(2, np.arange(60), np.full(60, 50))
    assert made.steps(2, np.array([5, 40]), np.array([50, 50])).tolist() == everybody[[5, 40]].tolist()


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("all", CohortRule("all")),
        ("0.1", CohortRule("share", 0.1)),
        ("1e-3", CohortRule("share", 1e-3)),
        ("100", CohortRule("number", 100)),
        ("1", CohortRule("number", 1)),
        ("per-group:5", CohortRule("per-group", 5)),
    ],
)
def test_references(reference, expected):
    assert read_participation(reference) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"reference": "some"},
            "--participation 'some' is unknown; one of all, a share such as 0.1, a number such as 100, ",
        ),
        ({"reference": ""}, "--participation '' is unknown"),
        ({"reference": "10%"}, "--participation '10%' is unknown"),
        ({"reference": "stratified:4"}, "--participation 'stratified:4': stratified:STRATA:NUMBER, such as"),
        ({"reference": "stratified:0:4"}, "--participation 'stratified:0:4': stratified:STRATA:NUMBER, such as"),
        ({"reference": "stratified:4:10"}, "--participation 'stratified:4:10': 4 strata cannot give 10 clients"),
        ({"reference": "stratified:4:64"}, "--participation 'stratified:4:64' is more than the 60 clients"),
        ({"reference": "per-group:"}, "--participation 'per-group:' is unknown"),
        ({"reference": "per-group:0.5"}, "--participation 'per-group:0.5' is unknown"),
        ({"reference": "0"}, "--participation '0' is nobody; all, a share"),
        ({"reference": "per-group:0"}, "--participation 'per-group:0' is nobody"),
        ({"reference": "0.0"}, "--participation '0.0': a share is above 0 and at most 1, a number is whole"),
        ({"reference": "1.5"}, "--participation '1.5': a share is above 0"),
        ({"reference": "-3"}, "--participation '-3': a share is above 0"),
        ({"reference": "nan"}, "--participation 'nan': a share is above 0"),
        ({"reference": "61"}, "--participation '61' is more than the 60 clients of the federation; at most 60"),
        ({"reference": "per-group:41"}, "--participation 'per-group:41' is more than the 40 clients of the largest "),
        ({"dropout": 1.0}, "--dropout 1 is no share; from 0 to below 1"),
        ({"dropout": -0.1}, "--dropout -0.1 is no share"),
        ({"dropout": float("nan")}, "--dropout nan is no share"),
        ({"stragglers": 1.1}, "--stragglers 1.1 is no share; from 0 to 1"),
    ],
)
def test_participation_that_cannot_be(options, message):
    with pytest.raises(UserError) as error:
        participation(**options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
