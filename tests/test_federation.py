"""How an archive is dealt to clients, and which samples are kept for the test."""

import numpy as np
import pytest
from federations import MemoryArchive
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.holdout import train_and_test
from mmfl_jax.federation.partition import partition
from mmfl_jax.tasks import task_of


def archive(samples=200, task="multiclass", **options):
    made = MemoryArchive(samples=samples, task=task, **options)
    rng = np.random.default_rng(1)
    made.attributes["country"] = rng.choice(["Austria", "Belgium", "Finland"], samples, p=[0.6, 0.3, 0.1])
    made.attributes["season"] = rng.choice(["summer", "winter"], samples)
    made.attributes["zone"] = rng.integers(0, 12, samples)
    return made


def deal(made, reference, clients=0, seed=0):
    return partition(made, reference, np.arange(len(made)), clients, seed)


def assert_dealt(parts, samples):
    """Assert that every sample went to exactly one client, and that no client is empty."""
    assert all(len(part.samples) for part in parts)
    np.testing.assert_array_equal(np.sort(np.concatenate([part.samples for part in parts])), samples)
    assert len({part.name for part in parts}) == len(parts)


def test_iid_parts_are_even_and_drawn_by_the_seed():
    made = archive()
    parts = deal(made, "iid", 7)
    assert_dealt(parts, np.arange(200))
    assert {len(part.samples) for part in parts} == {28, 29}
    assert [part.samples.tolist() for part in parts] == [part.samples.tolist() for part in deal(made, "iid", 7)]
    assert parts[0].samples.tolist() != deal(made, "iid", 7, seed=1)[0].samples.tolist()
    assert len(deal(made, "iid")) == 10
    assert len(deal(archive(samples=4), "iid")) == 4


@settings(max_examples=100, deadline=None)
@given(
    alpha=st.floats(1e-3, 100),
    samples=st.integers(1, 80),
    data=st.data(),
    task=st.sampled_from(["multiclass", "multilabel"]),
)
def test_dirichlet_deals_every_sample_once_and_leaves_no_client_empty(alpha, samples, data, task):
    clients = data.draw(st.integers(1, samples))
    made = archive(samples=samples, task=task)
    parts = deal(made, f"dirichlet:{alpha}", clients, data.draw(st.integers(0, 99)))
    assert len(parts) == clients
    assert_dealt(parts, np.arange(samples))


def test_dirichlet_skews_the_classes_the_more_the_smaller_alpha_is():
    made = archive(samples=3000)

    def skew(alpha):
        shares = [np.bincount(made.labels[p.samples], minlength=3) / len(p.samples) for p in deal(made, alpha, 6)]
        return np.abs(np.stack(shares) - np.bincount(made.labels) / 3000).mean()

    assert skew("dirichlet:0.05") > 0.3
    assert skew("dirichlet:1000") < 0.02


def test_a_sample_of_several_labels_goes_by_its_rarest():
    made = archive(samples=4, task="multilabel")
    made.labels = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 0, 0]], np.uint8)
    made.labels[2, 2] = 0  # classes then occur 3, 2 and 1 times
    assert task_of(made).sorting_class(made.labels).tolist() == [1, 2, 1, -1]


def test_by_attribute_makes_a_client_of_every_value():
    made = archive()
    for reference in ("by:country", "ds2"):
        parts = deal(made, reference)
        assert_dealt(parts, np.arange(200))
        assert [part.name for part in parts] == ["Austria", "Belgium", "Finland"]
        for part in parts:
            assert set(made.attributes["country"][part.samples]) == {part.name}


def test_by_two_attributes_makes_a_client_of_every_pair():
    made = archive()
    for reference in ("by:country+season", "ds3"):
        parts = deal(made, reference)
        assert_dealt(parts, np.arange(200))
        assert len(parts) == 6
        part = next(part for part in parts if part.name == "Belgium+winter")
        expected = (made.attributes["country"] == "Belgium") & (made.attributes["season"] == "winter")
        np.testing.assert_array_equal(part.samples, np.flatnonzero(expected))


def test_fewer_clients_than_values_get_whole_values_of_even_size():
    made = archive(samples=1200)
    parts = deal(made, "by:zone", 4)
    assert_dealt(parts, np.arange(1200))
    zones = [set(made.attributes["zone"][part.samples].tolist()) for part in parts]
    assert sum(map(len, zones)) == 12
    sizes = [len(part.samples) for part in parts]
    assert max(sizes) - min(sizes) < 100  # the size of one zone


def test_preset_ds1_is_iid():
    made = archive()
    ours, theirs = deal(made, "ds1", 5), deal(made, "iid", 5)
    assert [part.samples.tolist() for part in ours] == [part.samples.tolist() for part in theirs]


@pytest.mark.parametrize(
    ("reference", "clients", "message"),
    [
        ("uniform", 0, "--partition 'uniform' is unknown; one of iid, dirichlet:ALPHA"),
        ("dirichlet", 0, "--partition 'dirichlet' is unknown"),
        ("dirichlet:", 0, "ALPHA must be a positive number such as 0.3, not ''"),
        ("dirichlet:-1", 0, "ALPHA must be a positive number such as 0.3, not '-1'"),
        ("dirichlet:nan", 0, "ALPHA must be a positive number"),
        ("by:contry", 0, r"'contry' is no attribute of archive memory \(did you mean country\?\)"),
        ("by:", 0, "--partition 'by:' is unknown"),
        ("by:country+", 0, r"--partition 'by:country\+' is unknown"),
        ("iid", 201, "--clients 201 is more than the 200 training samples"),
        ("by:country", 4, "--clients 4 is more than the 3 values of country in the training samples; at most 3"),
    ],
)
def test_partition_that_cannot_be_made(reference, clients, message):
    with pytest.raises(UserError, match=message):
        deal(archive(), reference, clients)


def held_by(federation):
    return {
        name: (group.modalities, len(group.client(i)))
        for group in federation.groups
        for i, name in enumerate(group.names)
    }


def test_single_gives_each_client_one_modality_and_shares_the_samples_out():
    federation = Federation.split(archive(samples=2000), "by:zone", assignment="single")
    held = held_by(federation)
    assert len(held) == 12
    seen = {m: sum(n for modalities, n in held.values() if modalities == (m,)) for m in ("s1", "s2")}
    assert sum(seen.values()) == 1600
    assert abs(seen["s1"] - seen["s2"]) < 200


def test_equal_parts_alternate_and_the_seed_says_which_modality_is_first():
    first = {
        held_by(Federation.split(archive(), "iid", clients=4, seed=seed, assignment="single"))["client-0"][0]
        for seed in range(8)
    }
    assert first == {("s1",), ("s2",)}


def test_all_gives_every_client_every_modality():
    federation = Federation.split(archive(), "iid", clients=5, assignment="all")
    assert [group.modalities for group in federation.groups] == [("s1", "s2")]
    assert federation.clients == 5


def test_mixed_has_clients_of_each_modality_and_of_both():
    federation = Federation.split(archive(), "iid", clients=6, assignment="mixed")
    assert {group.modalities: len(group.ids) for group in federation.groups} == {
        ("s1",): 2,
        ("s2",): 2,
        ("s1", "s2"): 2,
    }


def test_split_makes_of_each_part_a_client_of_every_modality():
    federation = Federation.split(archive(), "by:country", assignment="split")
    radar, optical = federation.groups
    assert radar.names == ("Austria:s1", "Belgium:s1", "Finland:s1")
    assert optical.names == ("Austria:s2", "Belgium:s2", "Finland:s2")
    np.testing.assert_array_equal(radar.samples, optical.samples)
    assert sorted([*radar.ids, *optical.ids]) == list(range(6))


def test_one_owner_of_ten_holds_a_rare_modality():
    owners = []
    for seed in range(8):
        rare, rest = Federation.split(archive(), "iid", clients=20, seed=seed, assignment="rare:s1").groups
        assert (rare.modalities, len(rare.ids)) == (("s1",), 2)
        assert (rest.modalities, len(rest.ids)) == (("s2",), 18)
        owners.append(rare.names)
    assert len(set(owners)) > 4
    few = Federation.split(archive(), "by:country", assignment="rare:s2")
    assert {group.modalities: len(group.ids) for group in few.groups} == {("s1",): 2, ("s2",): 1}
    with pytest.raises(UserError, match="rare:s3: needs two clients and two modalities, one of them 's3'; there are 4"):
        Federation.split(archive(), "iid", clients=4, assignment="rare:s3")


def test_no_client_sees_a_test_sample():
    federation = Federation.split(archive(), "by:country+season", assignment="mixed")
    train = np.concatenate([group.samples for group in federation.groups])
    np.testing.assert_array_equal(np.sort(np.concatenate([train, federation.test])), np.arange(200))
    assert len(federation.test) == 40


def test_groups_keep_clients_and_modalities_in_order():
    clients = [("a", ("s2", "s1"), [0, 1]), ("b", ("s2",), [2]), ("c", ("s1",), [3, 4, 5]), ("d", ("s1",), [6])]
    federation = Federation.of(archive(), clients, [7])
    assert [group.modalities for group in federation.groups] == [("s1",), ("s2",), ("s1", "s2")]
    assert [group.ids.tolist() for group in federation.groups] == [[2, 3], [1], [0]]
    assert federation.groups[0].sizes.tolist() == [3, 1]
    assert federation.groups[0].client(1).tolist() == [6]


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ([], "the federation has no client; give at least one"),
        ([("a", ("s1",), [])], "client 'a' has no samples; leave it out or give it some"),
        ([("a", ("s3",), [0])], r"client 'a' holds modalities \('s3',\); the archive has s1, s2"),
        ([("a", (), [0])], r"client 'a' holds modalities \(\); the archive has s1, s2"),
    ],
)
def test_federation_that_cannot_be(clients, message):
    with pytest.raises(UserError, match=message):
        Federation.of(archive(), clients, [1])


def test_unknown_assignment():
    with pytest.raises(UserError, match="--modality-assignment 'both' is unknown; one of single, all, mixed, split"):
        Federation.split(archive(), assignment="both")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_description_counts_labels_and_names_the_largest_first(task):
    made = archive(task=task)
    found = Federation.split(made, "by:country", assignment="single").describe(most=2)
    assert [client["name"] for client in found["clients"]] == ["Austria", "Belgium"]
    assert (found["clients_total"], found["train_samples"], found["test_samples"]) == (3, 160, 40)
    train, _ = train_and_test(made, "auto", 0)
    mine = train[made.attributes["country"][train] == "Austria"]
    labels = made.labels[mine] if task == "multilabel" else np.eye(3, dtype=int)[made.labels[mine]]
    assert found["clients"][0]["labels"] == labels.sum(axis=0).tolist()


def test_official_split_is_taken_where_there_is_one():
    made = archive()
    made.splits = np.array(["train", "validation", "test", "train"] * 50)
    for form in ("official", "auto"):
        train, test = train_and_test(made, form, 0)
        np.testing.assert_array_equal(train, np.flatnonzero(made.splits == "train"))
        np.testing.assert_array_equal(test, np.flatnonzero(made.splits == "test"))


def test_share_is_drawn_by_the_seed():
    made = archive()
    train, test = train_and_test(made, "0.25", 0)
    assert len(test) == 50
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(200))
    assert not np.array_equal(test, train_and_test(made, "0.25", 1)[1])
    assert len(train_and_test(made, "auto", 0)[1]) == 40


@pytest.mark.parametrize("attribute", ["region", "zone"])  # strings, and numbers whose text sorts otherwise
@pytest.mark.parametrize("folds", [2, 5])
def test_folds_are_those_of_scikit_learn(attribute, folds):
    made = archive()
    groups = made.attributes[attribute]
    expected = GroupKFold(folds, shuffle=True, random_state=0).split(groups, groups=groups)
    for fold, (train, test) in enumerate(expected):
        ours = train_and_test(made, f"by:{attribute}:{fold}/{folds}", seed=9)
        np.testing.assert_array_equal(ours[0], train)
        np.testing.assert_array_equal(ours[1], test)
        if (fold, folds) == (0, 5):
            np.testing.assert_array_equal(train_and_test(made, f"by:{attribute}", seed=9)[1], test)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("official", "--test-split official: archive memory has no official split; try 0.2"),
        ("1.5", "--test-split '1.5' is unknown; official, by:ATTRIBUTE"),
        ("0", "--test-split '0' is unknown"),
        ("nan", "--test-split 'nan' is unknown"),
        ("offical", "--test-split 'offical' is unknown"),
        ("0.001", "--test-split 0.001: 200 training and 0 test samples of 200; both must have some"),
        ("by:contry", "'contry' is no attribute of archive memory"),
        ("by:country:1", "folds are written by:ATTRIBUTE:FOLD/FOLDS, such as 0/5"),
        ("by:country:a/b", "folds are written by:ATTRIBUTE:FOLD/FOLDS, such as 0/5"),
        ("by:country:0/2:1", "folds are written by:ATTRIBUTE:FOLD/FOLDS, such as 0/5"),
        ("by:country:3/3", "needs 0 <= FOLD < FOLDS <= 3, the values of country"),
        ("by:country:0/4", "needs 0 <= FOLD < FOLDS <= 3, the values of country"),
        ("by:country:0/1", "needs 0 <= FOLD < FOLDS <= 3"),
    ],
)
def test_split_that_cannot_be_made(form, message):
    with pytest.raises(UserError, match=message):
        train_and_test(archive(), form, 0)
