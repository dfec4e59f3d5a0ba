"""Wrong labels, by accident and on purpose."""

import numpy as np
import pytest
from federations import MemoryArchive, ragged_federation
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfl_jax.errors import UserError
from mmfl_jax.federation import Federation
from mmfl_jax.federation.labels import some_clients, with_flipped_labels, with_noisy_labels
from mmfl_jax.tasks import find


def noisy(labels, classes, task, share, seed=0, kind="symmetric"):
    return find(task, classes).noisy(labels, share, np.random.default_rng(seed), kind)


def test_a_wrong_class_is_any_other_alike():
    labels = np.repeat(np.arange(5), 20_000).astype(np.int32)
    found = noisy(labels, 5, "multiclass", 0.4)
    assert found.dtype == labels.dtype
    confusion = np.zeros((5, 5))
    np.add.at(confusion, (labels, found), 1 / 20_000)
    np.testing.assert_allclose(confusion, np.full((5, 5), 0.1) + 0.5 * np.eye(5), atol=0.015)
    assert (noisy(labels, 5, "multiclass", 1.0) != labels).all()
    assert (noisy(labels, 5, "multiclass", 0.0) == labels).all()


def test_each_class_of_a_sample_is_flipped_alone():
    labels = (np.random.default_rng(1).random((50_000, 4)) < 0.2).astype(np.uint8)
    wrong = noisy(labels, 4, "multilabel", 0.1) != labels
    np.testing.assert_allclose(wrong.mean(axis=0), 0.1, atol=0.01)
    np.testing.assert_allclose(np.cov(wrong.T.astype(float)) - 0.09 * np.eye(4), 0, atol=0.006)
    assert (noisy(labels, 4, "multilabel", 1.0) == 1 - labels).all()


@pytest.mark.parametrize(("kind", "touched"), [("additive", 0), ("subtractive", 1)])
def test_noise_that_only_adds_or_only_takes_away(kind, touched):
    labels = (np.random.default_rng(1).random((50_000, 4)) < 0.3).astype(np.uint8)
    wrong = noisy(labels, 4, "multilabel", 0.25, kind=kind) != labels
    assert abs(wrong[labels == touched].mean() - 0.25) < 0.01
    assert not wrong[labels != touched].any()


@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    classes=st.integers(2, 12),
    task=st.sampled_from(["multiclass", "multilabel", "pixel"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_labels_stay_labels(data, classes, task, share, seed):
    rng = np.random.default_rng(seed)
    shape = {"multiclass": (30,), "multilabel": (30, classes), "pixel": (4, 3, 3)}[task]
    labels = rng.integers(0, 2 if task == "multilabel" else classes, shape).astype(np.uint8)
    if task == "pixel":
        labels[0, 0] = 255  # no class: ignored
    before = labels.copy()
    top = 1 if task == "multilabel" else classes - 1
    for found in (noisy(labels, classes, task, share, seed), find(task, classes).flipped(labels)):
        assert (found.dtype, found.shape) == (labels.dtype, labels.shape)
        assert found[labels <= top].max(initial=0) <= top
        assert (found[labels > top] == 255).all()
    assert (find(task, classes).flipped(find(task, classes).flipped(labels)) == labels).all()
    assert (labels == before).all()
    assert (noisy(labels, classes, task, share, seed) == noisy(labels, classes, task, share, seed)).all()


def test_a_poisoner_counts_classes_from_the_other_end():
    assert find("multiclass", 5).flipped(np.array([0, 1, 4, -1], np.int32)).tolist() == [4, 3, 0, -1]
    assert find("multilabel", 3).flipped(np.array([[1, 0, 0]], np.uint8)).tolist() == [[0, 1, 1]]


SIZES, HELD = [30, 40, 50, 60], [("s1",), ("s2",), ("s1",), ("s1", "s2")]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_only_the_chosen_clients_train_on_wrong_labels(task):
    clean = ragged_federation(SIZES, HELD, task=task)
    kept = clean.archive.labels.copy()
    for changed in (
        with_noisy_labels(clean, 0.9, 0, clients=np.array([1, 2])),
        with_flipped_labels(clean, np.array([1, 2])),
    ):
        for before, after in zip(clean.groups, changed.groups):
            differs = (changed.labels(after) != clean.labels(before)).reshape(len(after.samples), -1).any(axis=1)
            shares = [differs[a:b].mean() for a, b in zip(after.offsets, after.offsets[1:])]
            for client, share in zip(after.ids.tolist(), shares):
                assert share > 0.5 if client in (1, 2) else share == 0
            expected = [
                changed.labels(after)[a:b].sum(axis=0).tolist()
                if task == "multilabel"
                # one class a sample: counted one by one
                else [int((changed.labels(after)[a:b] == c).sum()) for c in range(3)]
                for a, b in zip(after.offsets, after.offsets[1:])
            ]
            assert changed.label_counts(after)[:, :-1].tolist() == expected
        assert (changed.archive.labels == kept).all()  # those of the test samples among them
        assert changed.test is clean.test
        assert changed.digest() != clean.digest()
        rows = {row["name"]: row["labels"] for row in changed.describe()["clients"]}
        clean_rows = {row["name"]: row["labels"] for row in clean.describe()["clients"]}
        assert {name for name in rows if rows[name] != clean_rows[name]} == {"client 1", "client 2"}


def test_noise_of_all_clients_is_drawn_by_the_seed():
    clean = ragged_federation(SIZES, HELD, task="multiclass")
    one, same, other = (with_noisy_labels(clean, 0.3, seed).digest() for seed in (0, 0, 1))
    assert one == same != other
    found = with_noisy_labels(clean, 0.3, 0)
    wrong = np.concatenate([found.labels(a) != clean.labels(b) for a, b in zip(found.groups, clean.groups)])
    assert 0.15 < wrong.mean() < 0.45


def test_noise_comes_on_top_of_flipping():
    clean = ragged_federation(SIZES, HELD, task="multiclass")
    flipped = with_flipped_labels(clean, np.arange(4))
    both = with_noisy_labels(flipped, 0.0, 0)
    assert both.digest() == flipped.digest() != clean.digest()
    assert with_flipped_labels(both, np.arange(4)).digest() == clean.digest()


def test_two_owners_of_one_place_are_wrong_each_in_its_own_way():
    archive = MemoryArchive(samples=210, task="multiclass")
    clients = [("a", ("s1",), np.arange(200)), ("b", ("s2",), np.arange(200))]
    found = with_noisy_labels(Federation.of(archive, clients, np.arange(200, 210)), 0.5, 0)
    radar, optical = (found.labels(group) != archive.labels[group.samples] for group in found.groups)
    assert 0.3 < (radar != optical).mean() < 0.7


def test_some_clients_are_a_share_and_grow_with_it():
    federation = ragged_federation([1] * 40, [("s1",)] * 40)
    chosen = {share: some_clients(federation, share, 3) for share in (0.0, 0.001, 0.25, 0.5, 1.0)}
    assert [len(clients) for clients in chosen.values()] == [0, 1, 10, 20, 40]
    assert set(chosen[0.25].tolist()) < set(chosen[0.5].tolist())
    assert chosen[0.25].tolist() == sorted(chosen[0.25].tolist())
    assert chosen[0.25].tolist() != some_clients(federation, 0.25, 4).tolist()
    assert chosen[0.25].tolist() != some_clients(federation, 0.25, 3, option="label-noise-clients").tolist()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: with_noisy_labels(f, 1.5, 0), "--label-noise 1.5 is no share; from 0 to 1"),
        (lambda f: with_noisy_labels(f, float("nan"), 0), "--label-noise nan is no share"),
        (
            lambda f: with_noisy_labels(f, 0.1, 0, kind="additive"),
            "--label-noise-kind 'additive' is unknown for multiclass labels; one of symmetric",
        ),
        (
            lambda f: noisy(np.zeros((2, 2)), 2, "multilabel", 0.1, kind="mixed"),
            "--label-noise-kind 'mixed' is unknown for multilabel labels; one of symmetric, additive, subtractive",
        ),
        (
            lambda f: noisy(np.zeros(2, int), 1, "multiclass", 0.1),
            "--label-noise: the archive has 1 class; a wrong label needs another",
        ),
        (lambda f: some_clients(f, -0.1, 0), "--malicious -0.1 is no share of clients; from 0 to 1"),
        (lambda f: some_clients(f, 2, 0, option="x"), "--x 2 is no share of clients"),
    ],
)
def test_noise_that_cannot_be(call, message):
    with pytest.raises(UserError) as error:
        call(ragged_federation(SIZES, HELD, task="multiclass"))
    assert str(error.value).startswith(message)
