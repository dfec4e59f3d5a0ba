"""Owners whose data spoil it for all: leaks into the test split, values that are missing throughout, far too large."""

import dataclasses

import numpy as np
import pytest
from federations import MemoryArchive, ragged_federation, simulation

from mmfl_jax import archives
from mmfl_jax.archives.base import ModalitySpec, Subset
from mmfl_jax.engine.normalizer import Normalizer
from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.holdout import train_and_test

ROWS = 40


def save(folder, **changes):
    rng = np.random.default_rng(0)
    columns = {
        "s1": rng.normal(size=(ROWS, 5, 2)).astype(np.float32),
        "s2": rng.normal(size=(ROWS, 5, 3)).astype(np.float32),
        "label": np.arange(ROWS) % 3,
        "region": np.array([f"r{i % 8}" for i in range(ROWS)]),
        "split": np.array(["train"] * 30 + ["test"] * 10),
    } | changes
    np.savez(folder / "archive.npz", **{key: column for key, column in columns.items() if column is not None})
    return archives.open(f"arrays:{folder / 'archive.npz'}")


def refused(archive, *arguments, **options):
    with pytest.raises(UserError) as caught:
        Federation.split(archive, *arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_places_on_both_sides_are_counted(tmp_path):
    place = np.arange(ROWS)
    place[35:38] = 4
    archive = save(tmp_path, place=place)
    assert refused(archive) == (
        "--test-split auto: 3 of 10 test samples have a place that training samples have too, such as 4; "
        "give by:place, or a share such as 0.2, which keeps every place on one side"
    )
    assert "10 of 10 test samples have a place" in refused(
        save(tmp_path, place=np.arange(ROWS) // 8), test_split="by:region"
    )


def test_patches_on_both_sides_are_counted(tmp_path):
    patch = np.array([f"p{i % 38}" for i in range(ROWS)])
    assert "2 of 10 test samples have a patch_id that training samples have too, such as p0" in refused(
        save(tmp_path, patch_id=patch)
    )


def test_rows_given_twice_are_found_by_their_values(tmp_path):
    series = np.random.default_rng(1).normal(size=(2, ROWS, 5, 3)).astype(np.float32)
    for array in series:
        array[33], array[36], array[9] = array[2], array[2], array[8]
    archive = save(tmp_path, s1=series[0], s2=series[1])
    line = refused(archive)
    assert "2 of 10 test samples have the same images as training samples, such as 33 and 2; take out" in line
    assert "2 of 10" in refused(Subset(archive, np.arange(ROWS)))
    # A sample is its images of all modalities.
    assert save(tmp_path, s1=series[0]).copies is None


def test_samples_that_are_equal_by_chance_are_no_copies(tmp_path):
    flags = np.random.default_rng(0).integers(0, 2, (ROWS, 3))
    assert Federation.split(save(tmp_path, s1=flags, s2=np.zeros((ROWS, 4, 4, 2)))).clients == 10


@pytest.mark.parametrize("seed", range(5))
def test_a_random_share_keeps_places_and_copies_together(tmp_path, seed):
    series = np.random.default_rng(1).normal(size=(ROWS, 5, 3)).astype(np.float32)
    series[39] = series[0]
    place = np.arange(ROWS) // 3
    archive = save(tmp_path, s1=None, s2=series, place=place, split=None)
    train, test = train_and_test(archive, "0.25", seed)
    assert not set(place[train]) & set(place[test])
    assert (0 in test) == (39 in test)
    assert 10 <= len(test) <= 13
    assert sorted([*train, *test]) == list(range(ROWS))


def test_a_share_without_places_is_drawn_as_before(tmp_path):
    memory = MemoryArchive(samples=ROWS)
    train, test = train_and_test(memory, "0.25", 3)
    memory.attributes["patch_id"] = np.arange(ROWS)
    for found, expected in zip(train_and_test(memory, "0.25", 3), (train, test)):
        np.testing.assert_array_equal(found, expected)


def test_splits_of_other_names_are_refused():
    memory = MemoryArchive(samples=4)
    memory.splits = np.array(["train", "test", None, "dev"], object)
    assert "archive memory: sample 2 is in split None; each must be in one of: train, validation, test" in refused(
        memory
    )


@pytest.mark.parametrize("nothing", [None, np.nan, "", " "])
def test_owners_without_a_name_are_refused(nothing):
    memory = MemoryArchive(samples=40)
    memory.attributes["region"] = np.array(["a", "b"] * 20, object)
    memory.attributes["region"][7] = nothing
    assert f"attribute 'region' of archive memory: sample 7 has none ({nothing!r})" in refused(memory, "by:region")


def test_modalities_whose_names_read_as_sets_are_refused():
    memory = MemoryArchive(shapes={"s1+s2": (5, 2)})
    assert "archive memory: modality 's1+s2'; names are made of letters" in refused(memory)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([1, 2, 55], "client 'a' holds 1 test samples; no client may see one"),
        ([1, 60], "client 'a' holds sample 60; there are 0 to 59"),
    ],
)
def test_clients_that_hold_what_they_cannot(samples, message):
    with pytest.raises(UserError, match=message):
        Federation.of(MemoryArchive(samples=60), [("a", ("s1",), np.array(samples))], np.arange(50, 60))


def with_missing(folder, *rows, modality="s2"):
    series = np.random.default_rng(2).normal(size=(ROWS, 5, 3)).astype(np.float32)
    for region in rows:
        series[region:32:8] = np.nan
    return save(folder, **{modality: series}, split=np.array(["train"] * 32 + ["test"] * 8))


def test_clients_without_a_value_are_left_out_and_named(tmp_path):
    archive = with_missing(tmp_path, 1, 4)
    alone = Subset(archive, np.arange(ROWS))
    alone.modalities = {"s2": archive.modalities["s2"]}
    with pytest.warns(
        UserWarning, match=r"2 of 8 clients have no value in what they hold, and are left out: r1 \(s2\)"
    ):
        federation = Federation.split(alone, "by:region")
    assert federation.groups[0].names == ("r0", "r2", "r3", "r5", "r6", "r7")
    assert federation.groups[0].ids.tolist() == list(range(6))
    assert not np.isin(federation.train % 8, [1, 4]).any()


def test_clients_without_a_value_of_a_modality_go_without_it(tmp_path):
    archive = with_missing(tmp_path, 1)
    with pytest.warns(UserWarning, match=r"1 of 8 clients have no value of a modality, and go without it: r1 \(s2\)"):
        federation = Federation.split(archive, "by:region", assignment="all")
    assert {group.modalities: group.names for group in federation.groups}[("s1",)] == ("r1",)
    assert federation.clients == 8


def test_no_client_has_a_value(tmp_path):
    archive = with_missing(tmp_path, *range(8))
    alone = Subset(archive, np.arange(ROWS))
    alone.modalities = {"s2": archive.modalities["s2"]}
    with pytest.warns(UserWarning, match="8 of 8 clients"):
        assert "no client has a value in what it holds" in refused(alone, "by:region")


class Poisoned(MemoryArchive):
    """Replace the first value of some samples, in an archive that tells nothing before it is read."""

    def __init__(self, change, clients=9):
        super().__init__(samples=10 * clients + 20, shapes={"s1": (5, 2)})
        for client, value in change.items():
            self.images["s1"][10 * client : 10 * client + 10] *= value
        owners = [(f"owner {i}", ("s1",), np.arange(10 * i, 10 * i + 10)) for i in range(clients)]
        self.federation = Federation.of(self, owners, np.arange(10 * clients, len(self)))


def test_pooled_statistics_are_those_of_the_samples():
    archive = Poisoned({})
    normalizer = Normalizer.of(archive.federation)
    values = archive.images["s1"][:90].reshape(-1, 2)
    np.testing.assert_allclose(normalizer.mean["s1"], values.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.std["s1"], values.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e30, -1e30, 1e6, 100])
@pytest.mark.parametrize("hostile", [(4,), (0, 1, 2, 8)])
def test_owners_of_far_larger_values_are_left_out_of_the_statistics(value, hostile):
    archive = Poisoned(dict.fromkeys(hostile, value))
    named = ", ".join(f"owner {i}" for i in hostile[:3])
    with pytest.warns(UserWarning, match=rf"modality s1: clients .*: {named}( and 1 more)? \({len(hostile)} of 9\)"):
        normalizer = Normalizer.of(archive.federation)
    honest = np.delete(archive.images["s1"][:90].reshape(9, -1, 2), hostile, axis=0).reshape(-1, 2)
    np.testing.assert_allclose(normalizer.mean["s1"], honest.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(normalizer.std["s1"], honest.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("scales", [dict(enumerate(np.geomspace(1, 2000, 9))), {3: 5.0}, {3: 0.0}, {3: 1e-6}])
def test_owners_that_merely_differ_are_kept(scales):
    archive = Poisoned(scales)  # heights, for one, differ from owner to owner by far
    values = archive.images["s1"][:90].reshape(-1, 2)
    np.testing.assert_allclose(Normalizer.of(archive.federation).std["s1"], values.std(axis=0), rtol=1e-5)


def test_constant_channels_and_nothing_but_zeros():
    archive = Poisoned(dict.fromkeys(range(8), 0.0))
    Normalizer.of(archive.federation)
    archive = Poisoned(dict.fromkeys(range(9), 0.0))
    np.testing.assert_array_equal(Normalizer.of(archive.federation).std["s1"], 1)


def test_owners_all_of_whose_values_are_missing_do_not_train_on_zeros():
    with pytest.raises(UserError, match=r"modality s1: clients hold it without any value of it.*: owner 5 \(1 of 9\)"):
        Normalizer.of(Poisoned({5: np.nan}).federation)


@pytest.mark.parametrize("value", [np.inf, 1e30])
def test_no_owner_can_be_trusted(value):
    archive = Poisoned({0: np.inf, 1: np.inf}, clients=2)
    with pytest.warns(UserWarning, match="2 of 2"), pytest.raises(UserError, match="no training sample has a finite"):
        Normalizer.of(archive.federation)


def test_published_statistics_are_taken_as_they_are():
    archive = Poisoned({4: 1e30})
    spec = ModalitySpec((5, 2), ("0", "1"), np.zeros(2, np.float32), np.ones(2, np.float32))
    archive.modalities = {"s1": spec}
    federation = dataclasses.replace(archive.federation, archive=archive)
    np.testing.assert_array_equal(Normalizer.of(federation).std["s1"], 1)


def test_a_modality_that_nobody_holds_is_not_scored():
    sim = simulation(ragged_federation([20, 30], [("s1",), ("s1",)]), method="mf", encoder="mlp")
    assert list(sim.evaluate()) == list(sim.evaluate(sim.federation.archive)) == ["s1"]
    assert sim.predict(np.arange(3)).shape == (3, 3)
