"""Dealing an archive to very many clients: as fast as its samples are many, and to whom the plain loop deals it."""

import time

import federation_loops as loops
import numpy as np
import pytest
from federations import MemoryArchive
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.federation import Federation
from mmfl_jax.federation.partition import Part, Parts, partition
from mmfl_jax.federation.ragged import positions, row_numbers, stacked

REFERENCES = ("iid", "dirichlet:0.05", "dirichlet:3", "by:owner", "by:number", "by:share", "by:owner+number+day")


def archive(samples, owners, task="multiclass", seed=0):
    rng = np.random.default_rng(seed)
    made = MemoryArchive(samples=samples, task=task, shapes={"s1": (1,), "s2": (1,), "s3": (1,)}, classes=4, seed=seed)
    owner = rng.integers(0, owners, samples)
    made.attributes["owner"] = np.array([f"o{i}" for i in owner])
    made.attributes["number"] = rng.integers(-3, 12, samples)  # 10 and -1 sort otherwise as text
    made.attributes["share"] = rng.integers(0, 4, samples) / 4
    made.attributes["day"] = rng.choice(["a", "a+1", "1+a"], samples)
    return made


@settings(max_examples=150, deadline=None)
@given(
    reference=st.sampled_from(REFERENCES),
    assignment=st.sampled_from(["single", "all", "mixed", "split"]),
    task=st.sampled_from(["multiclass", "multilabel"]),
    samples=st.integers(10, 90),
    owners=st.integers(1, 30),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_federation_is_what_the_plain_loop_makes(reference, assignment, task, samples, owners, seed, data):
    made = archive(samples, owners, task, seed)
    everyone = len(partition(made, reference, np.arange(samples), 0, 0))
    most = min(everyone, samples // 3) if reference.startswith("by:") else samples // 2
    clients = data.draw(st.integers(0, max(0, most - 2)))  # fewer, for some values may all be in the test
    expected, test = loops.split(made, reference, clients, assignment, seed)
    federation = Federation.split(made, reference, clients=clients, assignment=assignment, seed=seed)
    np.testing.assert_array_equal(federation.test, test)
    assert len(federation.groups) == len(expected)
    for group, (modalities, names, ids, held, offsets) in zip(federation.groups, expected):
        assert (group.modalities, group.names) == (modalities, names)
        for found, right in ((group.ids, ids), (group.samples, held), (group.offsets, offsets)):
            assert found.dtype == right.dtype
            np.testing.assert_array_equal(found, right)
        counts = [[*loops.label_counts(made, c := group.client(i)), len(c)] for i in range(len(group.ids))]
        assert federation.label_counts(group).tolist() == counts
    assert federation.digest() == loops.digest(made, expected, test)
    assert federation.describe(5)["clients"] == loops.described(made, expected, 5)
    assert federation.describe()["train_samples"] == len(federation.train) == samples - len(test)


def test_clients_given_one_by_one_are_what_the_plain_loop_makes():
    made = archive(60, 5)
    rng = np.random.default_rng(0)
    sets = [("s2", "s1"), ("s1", "s2"), ("s3",), ("s1",), ["s3", "s1", "s2"]]
    clients = [(f"c{i}", sets[i % 5], rng.integers(0, 50, 1 + i % 4).tolist()) for i in range(23)]
    federation = Federation.of(made, clients, np.arange(50, 60))
    expected = loops.grouped(made, clients)
    assert [(g.modalities, g.names) for g in federation.groups] == [(e[0], e[1]) for e in expected]
    assert federation.digest() == loops.digest(made, expected, np.arange(50, 60))
    sizes = np.zeros(23, int)
    for _, _, ids, _, offsets in expected:
        sizes[ids] = np.diff(offsets)
    assert federation.sizes.tolist() == sizes.tolist()


def test_slots_number_the_samples_that_clients_hold():
    made = archive(60, 5)
    federation = Federation.of(made, [("a", ("s1",), [7, 3]), ("b", ("s2",), [7, 50]), ("c", ("s2",), [9])], [0])
    assert federation.train.tolist() == [3, 7, 9, 50]
    assert [federation.slots(group).tolist() for group in federation.groups] == [[1, 0], [1, 3, 2]]


def test_description_names_clients_of_every_group():
    made = archive(60, 5)
    clients = [("a", ("s1",), [1]), ("b", ("s2",), [2, 3, 4]), ("c", ("s1",), [5, 6]), ("d", ("s3",), [7, 8])]
    rows = Federation.of(made, clients, [0]).describe()["clients"]
    assert [row["name"] for row in rows] == ["b", "c", "d", "a"]
    assert [row["samples"] for row in rows] == [3, 2, 2, 1]


def test_parts_are_a_sequence():
    parts = Parts.of([Part("a", np.array([3, 1])), Part("b", np.array([2]))])
    assert Parts.of(parts) is parts
    assert [(part.name, part.samples.tolist()) for part in parts] == [("a", [3, 1]), ("b", [2])]
    assert [part.name for part in parts[::-1]] == ["b", "a"]
    assert parts[-1].samples.tolist() == [2]
    assert parts.sizes.tolist() == [2, 1]
    assert len(Parts.of([])) == 0
    with pytest.raises(IndexError):
        parts[2]


def test_rows_of_a_ragged_array():
    values, offsets = stacked(np.array([2, 0, 2, 0]), np.array([9, 5, 7, 6]), 4, ordered=False)
    assert (values.tolist(), offsets.tolist()) == ([5, 6, 9, 7], [0, 2, 2, 4, 4])
    assert stacked(np.array([2, 0, 2]), np.array([9, 5, 7]), 3, ordered=True)[0].tolist() == [5, 7, 9]
    assert row_numbers(offsets).tolist() == [0, 0, 2, 2]
    assert positions(offsets, np.array([2, 1, 0, 2])).tolist() == [2, 3, 0, 1, 2, 3]
    assert positions(offsets, np.array([], int)).tolist() == []


@pytest.mark.parametrize("reference", ["by:owner", "iid", "dirichlet:0.3"])
def test_many_owners_are_dealt_in_seconds(reference):
    """The loop that this replaces took time as owners times samples: minutes here."""
    made = archive(300_000, 200_000)
    begin = time.process_time()
    federation = Federation.split(made, reference, clients=0 if reference == "by:owner" else 100_000)
    federation.describe()
    assert sum(len(federation.label_counts(group)) for group in federation.groups) == federation.clients > 90_000
    assert time.process_time() - begin < 15
