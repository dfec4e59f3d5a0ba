"""Clients that lost some of their modalities."""

import numpy as np
import pytest
from federations import MemoryArchive
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.labels import with_noisy_labels
from mmfl_jax.federation.modalities import drop_modalities

NAMES = ("s1", "s2", "s3")
SETS = [("s1",), ("s1", "s2"), NAMES, ("s2", "s3"), ("s3",)]


def federation(clients):
    archive = MemoryArchive(samples=2 * clients + 5, shapes=dict.fromkeys(NAMES, (1,)))
    rng = np.random.default_rng(0)
    held = [(f"c{i}", SETS[i % 5], rng.integers(0, 2 * clients, 1 + i % 3)) for i in range(clients)]
    return Federation.of(archive, held, np.arange(2 * clients, 2 * clients + 5))


def by_client(made):
    """Return what each client is called, holds and takes the labels to be, by number."""
    return {
        int(number): (
            group.names[i],
            group.modalities,
            group.client(i).tolist(),
            made.labels(group)[group.offsets[i] : group.offsets[i + 1]].tolist(),
        )
        for group in made.groups
        for i, number in enumerate(group.ids)
    }


@settings(max_examples=60, deadline=None)
@given(clients=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 99), noise=st.booleans())
def test_clients_keep_all_but_some_modalities(clients, share, seed, noise):
    before = federation(clients)
    if noise:
        before = with_noisy_labels(before, 0.5, 0, clients=np.arange(0, clients, 2))
    after = drop_modalities(before, share, seed)
    assert after.digest() == drop_modalities(before, share, seed).digest()
    old, new = by_client(before), by_client(after)
    assert old.keys() == new.keys()
    for number, (name, held, samples, labels) in new.items():
        assert (name, samples, labels) == (old[number][0], *old[number][2:])
        assert held
        assert set(held) <= set(old[number][1])
    assert [g.modalities for g in after.groups] == sorted(
        {g.modalities for g in after.groups}, key=lambda held: (len(held), [NAMES.index(m) for m in held])
    )
    assert after.test.tolist() == before.test.tolist()


def test_no_share_changes_nothing_and_all_leaves_one():
    before = federation(200)
    assert drop_modalities(before, 0.0, 0).digest() == before.digest()
    after = drop_modalities(before, 1.0, 0)
    assert {len(group.modalities) for group in after.groups} == {1}
    kept = [held for _, held, *_ in (by_client(after)[i] for i in range(2, 200, 5))]
    counts = [kept.count((name,)) for name in NAMES]  # of clients that had all three
    assert min(counts) >= 5


def test_each_is_lost_with_its_chance_but_the_last():
    before = federation(10_000)
    found = by_client(drop_modalities(before, 0.3, 1))
    pairs = [found[number][1] for number in range(1, 10_000, 5)]
    # Both stay with 0.7 x 0.7; else one does, as when both would be lost.
    assert abs(pairs.count(("s1", "s2")) / len(pairs) - 0.49) < 0.04
    assert abs(pairs.count(("s1",)) / len(pairs) - 0.255) < 0.04


def test_a_greater_share_only_takes_more():
    before = federation(300)
    less, more = (by_client(drop_modalities(before, share, 4)) for share in (0.3, 0.6))
    assert all(set(more[i][1]) <= set(less[i][1]) for i in less)
    assert drop_modalities(before, 0.3, 4).digest() != drop_modalities(before, 0.3, 5).digest()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_that_is_none(share):
    with pytest.raises(UserError, match=f"--missing-modalities {share:g} is no share; from 0 to 1"):
        drop_modalities(federation(5), share, 0)
