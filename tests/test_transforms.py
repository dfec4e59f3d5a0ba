"""What travels: masks of secure aggregation cancel to the bit, and quantisation has no bias."""

import jax
import jax.numpy as jnp
import numpy as np
from references import algorithms as references

from mmfl_jax.algorithms import transforms
from mmfl_jax.algorithms.reduce import encode, fixed_point


def test_pairwise_masks_cancel_and_hide():
    """Bonawitz et al., 2017: client u adds PRG(s_uv) for every v above it, and takes off that of every v below it."""
    rng = np.random.default_rng(0)
    clients, bits = 7, 20
    changes = rng.normal(size=(clients, 1000)).astype(np.float32)
    weights = rng.uniform(0, 1, clients).astype(np.float32)
    plain = np.array([encode(jnp.asarray(w * x), bits) for w, x in zip(weights, changes)])
    masks = np.zeros_like(plain)
    for u in range(clients):
        for v in range(u + 1, clients):
            shared = np.random.default_rng([u, v]).integers(0, 2**32, 1000, dtype=np.uint32)
            masks[u] += shared
            masks[v] -= shared
    sent = plain + masks
    reduce = fixed_point(bits)
    seen = reduce.read(jnp.asarray(sent.sum(axis=0, dtype=np.uint32)))
    simulated = reduce.read(reduce.add(jnp.zeros(1000, jnp.uint32), jnp.asarray(changes), jnp.asarray(weights)))
    np.testing.assert_array_equal(seen, simulated)
    np.testing.assert_allclose(seen, weights @ changes, atol=clients * 2.0**-bits)
    # What one client sends is as good as uniform: its top bit is set half of the time, also where its change is small.
    assert abs((sent >> 31).mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(sent[0].astype(np.float64), changes[0])[0, 1]) < 0.1


def test_int8_is_without_bias_and_off_by_less_than_a_level():
    x = np.random.default_rng(0).normal(size=40).astype(np.float32)
    transform = transforms.int8(8)
    draw = jax.jit(lambda key: transform.encode({"change": {"w": jnp.asarray(x)}}, {}, key)[0]["change"]["w"])
    draws = np.array([draw(jax.random.key(i)) for i in range(400)], np.float64)
    level = np.abs(x).max() / 127
    assert references.int8_faults(x.astype(np.float64) / level, np.round(draws[0] / level)) == []
    np.testing.assert_allclose(draws / level, np.round(draws / level), atol=1e-4)
    assert references.int8_bias(x.astype(np.float64) / level, draws / level) < 5
    assert transform.bytes_up({"change": {"w": x}}) == 40 + 4


def test_bytes_are_those_of_all_transforms_together():
    message = {"change": {"w": np.zeros(1000, np.float32)}}
    clip, int8, top_k, sign = transforms.clip(1.0), transforms.int8(8), transforms.top_k(0.01), transforms.sign()
    size = lambda *chained: transforms.chain(*chained).bytes_up(message)
    assert size(clip) == 4000
    assert size(int8, clip) == size(clip, int8) == 1004
    assert size(sign, clip) == 125 + 4
    assert size(top_k, clip) == 10 * (4 + 4)
    assert size(top_k, int8) == 10 * (4 + 1) + 4  # places, values of a byte, and their scale
    own = transforms.Transform(bytes=lambda message: 7)
    assert size(own, clip) == size(int8, own) == 7  # a transform that says its own bytes is asked for them
    assert transforms.chain(top_k).bytes_up({"control": message["change"]}) == 4000  # only changes are sparse


def test_clipping_leaves_numbers_about_a_client():
    message = {"change": {"w": jnp.full(4, 3.0)}, "steps": {"w": jnp.float32(60)}}
    sent, _ = transforms.clip(1.0, ("steps",)).encode(message, {}, jax.random.key(0))
    np.testing.assert_allclose(sent["change"]["w"], 0.5, rtol=1e-6)
    assert sent["steps"]["w"] == 60
