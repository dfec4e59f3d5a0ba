"""InfoNCE against a written-out loop."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmfl_jax.engine.batches import Batch
from mmfl_jax.objectives.infonce import pairs_loss, relay_loss
from mmfl_jax.objectives.mim import MIM
from mmfl_jax.objectives.options import MIMOptions

T = 0.2


def units(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def written_out(anchor, positives, everything):
    score = lambda k: np.exp(np.dot(anchor.astype(np.float64), k.astype(np.float64)) / T)
    return -np.log(sum(map(score, positives)) / sum(map(score, everything)))


@pytest.mark.parametrize("modalities", [2, 3])
def test_pairs_are_nt_xent_over_the_whole_batch(modalities):
    batch = 5
    z = {f"m{i}": units(i, batch, 7) for i in range(modalities)}
    vectors = [(place, m, z[m][place]) for m in z for place in range(batch)]
    losses = []
    for place, m, anchor in vectors:
        others = [(p, k) for p, n, k in vectors if (p, n) != (place, m)]
        losses.append(written_out(anchor, [k for p, k in others if p == place], [k for _, k in others]))
    np.testing.assert_allclose(jax.jit(pairs_loss)(z, np.arange(batch), T), np.mean(losses), rtol=1e-5)


def test_pairs_do_not_push_a_place_from_itself():
    z = {"s1": units(0, 4, 6), "s2": units(1, 4, 6)}
    twice = {m: np.concatenate([v, v]) for m, v in z.items()}
    vectors = [(place, m, v[place % 4]) for m, v in z.items() for place in range(8)]
    losses = []
    for place, m, anchor in vectors:
        others = [(p, n, k) for p, n, k in vectors if not (p % 4 == place % 4 and n == m)]
        pulled = [k for p, _, k in others if p % 4 == place % 4]
        losses.append(written_out(anchor, pulled, [k for _, _, k in others]))
    np.testing.assert_allclose(pairs_loss(twice, jnp.tile(jnp.arange(4), 2), T), np.mean(losses), rtol=1e-5)


def test_pairs_of_one_modality_alone_are_0_with_finite_gradient():
    value, gradient = jax.jit(jax.value_and_grad(lambda z: pairs_loss({"s1": z}, jnp.arange(4), T)))(units(0, 4, 6))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.fixture
def relayed():
    known = {"s1": [True, True, True], "s2": [True, False, True], "s3": [False, False, True]}
    return {m: {"keys": units(i + 10, 3, 6), "known": np.array(k)} for i, (m, k) in enumerate(known.items())}


def output(z):
    return SimpleNamespace(projections=z)


def batch(labels, places=None):
    return Batch({}, labels, labels, places, None)


def relay(source):
    return MIM(MIMOptions(mim_positives=source, mim_size=6, mim_weight=1.0, mim_temperature=T), ("s1", "s2", "s3"))


def test_prototypes_of_the_labels_pull_and_all_others_push(relayed):
    z = {"s1": units(1, 4, 6), "s3": units(2, 4, 6)}
    labels = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]], np.uint8)
    expected = []
    for own in z:
        losses = []
        for i in range(4):
            slots = [(c, m) for m in relayed if m != own for c in range(3) if relayed[m]["known"][c]]
            positives = [relayed[m]["keys"][c] for c, m in slots if labels[i, c]]
            if positives:  # a sample without labels, or whose labels nobody has shown yet, is no anchor
                losses.append(written_out(z[own][i], positives, [relayed[m]["keys"][c] for c, m in slots]))
        expected.append(np.mean(losses))
    np.testing.assert_allclose(
        jax.jit(lambda z: relay("prototypes").loss(output(z), batch(labels), relayed))(z), np.mean(expected), rtol=1e-5
    )


def test_a_known_prototype_of_one_class_only_gives_no_loss_to_samples_of_others(relayed):
    only = {m: {**slot, "known": np.array([False, False, m == "s2"])} for m, slot in relayed.items()}
    loss = lambda z, labels: relay("prototypes").loss(output({"s1": z}), batch(labels), only)
    value, gradient = jax.jit(jax.value_and_grad(loss))(units(1, 1, 6), np.array([[1, 1, 0]], np.uint8))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_places_pull_the_same_place_and_push_the_others_of_the_batch():
    slots = 9
    known = np.arange(slots) % 4 != 3
    relayed = {m: {"keys": units(i + 20, slots, 6), "known": known} for i, m in enumerate(["s1", "s2", "s3"])}
    places = np.array([2, 5, 3, 2, 8], np.int32)  # one twice, one that nobody has shown yet
    z = units(3, 5, 6)
    losses = []
    for i, place in enumerate(places):
        keys = [(p, relayed[m]["keys"][p]) for m in ("s2", "s3") for p in places if known[p]]
        positives = [k for p, k in keys if p == place]
        if positives:
            losses.append(written_out(z[i], positives, [k for _, k in keys]))
    assert len(losses) == 4
    found = jax.jit(
        lambda z: relay("places").loss(output({"s1": z}), batch(np.zeros((5, 3), np.uint8), places), relayed)
    )(z)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("source", ["prototypes", "places"])
def test_nothing_known_yet_gives_0_with_a_finite_gradient(source):
    empty = relay(source).init(3)
    places = np.array([0, 1, 1, 2], np.int32)
    loss = lambda z: relay(source).loss(output({"s1": z}), batch(np.ones((4, 3), np.uint8), places), empty)
    value, gradient = jax.jit(jax.value_and_grad(loss))(units(1, 4, 6))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_one_modality_has_nobody_to_compare_with():
    z = {"s1": jnp.asarray(units(1, 4, 6))}
    keys, known = {"s1": units(2, 3, 6)}, {"s1": np.ones(3, bool)}
    assert relay_loss(z, keys, known, np.ones((4, 3), bool), T) == 0


def test_slots_become_the_direction_of_the_mean_and_stay_where_nobody_contributed(relayed):
    r = relay("prototypes")
    z = {"s1": units(4, 2, 3, 6)}  # [chunk, batch, d]
    labels = np.array([[[1, 0, 0], [1, 1, 0], [0, 0, 0]], [[0, 1, 0], [1, 0, 0], [1, 1, 0]]], np.uint8)
    active = np.array([True, False])
    sums = r.add(r.empty_sums(relayed), output(z), batch(labels), active)
    new = r.update(relayed, sums)
    for c in range(2):
        total = z["s1"][0][labels[0, :, c] > 0].astype(np.float64).sum(axis=0)
        np.testing.assert_allclose(new["s1"]["keys"][c], total / np.linalg.norm(total), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new["s1"]["keys"][2], relayed["s1"]["keys"][2])
    for m in ("s2", "s3"):
        np.testing.assert_array_equal(new[m]["keys"], relayed[m]["keys"])
        np.testing.assert_array_equal(new[m]["known"], relayed[m]["known"])
