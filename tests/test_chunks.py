"""The chunk that is chosen: what fits into memory, and no lanes that stand empty."""

import jax
import numpy as np
from federations import ragged_federation, simulation

from mmfl_jax.engine.chunks import IMAGES, SERIES, chunk_sizes, client_bytes, widest
from mmfl_jax.federation.placement import Placement

IMAGE = {"s1": (8, 8, 2), "s2": (8, 8, 3)}


def chosen(sim, free, counts, platform="tpu"):
    shapes = {m: jax.ShapeDtypeStruct(spec.shape, np.float32) for m, spec in sim.federation.archive.modalities.items()}
    steps = [np.full(n, 10) for n in counts]
    placement = Placement.of(steps, steps, 1)
    return chunk_sizes(sim.program, shapes, steps, placement, counts, platform, free), shapes


def test_clients_alike_fill_the_chunk_that_fits():
    federation = ragged_federation([8] * 8, [("s1",), ("s2",)] * 4)
    sim = simulation(federation, method="mf")
    assert chosen(sim, 2**40, [1000, 1000])[0] == [SERIES, SERIES]
    assert chosen(sim, 2**40, [1000, 7])[0] == [SERIES, 7]
    assert chosen(sim, 2**40, [1000, 3], "cpu")[0] == [4, 3]
    images = ragged_federation([8] * 8, [("s1",), ("s2",)] * 4, shapes=IMAGE)
    sim = simulation(images, method="mf", encoder="resnet8", width=4)
    assert chosen(sim, 2**40, [1000, 1000])[0] == [IMAGES, IMAGES]
    assert chosen(sim, 2**40, [1000, 1000], "cpu")[0] == [1, 1]
    _, shapes = chosen(sim, 2**40, [1000, 1000])
    each = client_bytes(sim.program, 0, shapes)
    assert chosen(sim, 7 * each, [1000, 1000])[0][0] == 5  # a fifth is left free
    assert chosen(sim, 1, [1000, 1000])[0] == [1, 1]


def test_what_a_client_takes_is_near_what_xla_takes():
    # Eight clients of one group; what XLA holds of the round beside them is small.
    federation = ragged_federation([64] * 8, [("s1",)] * 8, shapes={"s1": (32, 32, 2)})
    sim = simulation(federation, method="mf", encoder="resnet8", width=16, chunk_size=8)
    sim.compile()
    shapes = {"s1": jax.ShapeDtypeStruct((32, 32, 2), np.float32)}
    found = sim.execution.compiled.memory_analysis().temp_size_in_bytes
    # XLA need not keep all that the gradient asks for.
    assert found <= 8 * client_bytes(sim.program, 0, shapes) <= 1.5 * found


def test_unlike_clients_are_fewer_at_once():
    steps = [np.array([150, 40, 30, 20, 10, 10, 5, 5])]
    placement = Placement.of(steps, steps, 1)
    assert widest(8, 0, 8, steps, placement) == 2  # one client has more than half of the work
    assert widest(8, 0, 8, [np.full(8, 9)], placement) == 8
    steps = [np.array([1000, 40, 30, 20])]
    assert widest(4, 0, 4, steps, Placement.of(steps, steps, 1)) == 1
    halves = [np.array([100, 50, 50])]
    assert widest(3, 0, 3, halves, Placement.of(halves, halves, 1)) == 2
