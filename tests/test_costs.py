"""Costs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from federations import MemoryArchive, ragged_federation, simulation
from flax import nnx

from mmfl_jax import Simulation, Study
from mmfl_jax.costs import client_bytes, flops, memory, peak_memory, round_flops, step_flops
from mmfl_jax.engine.batches import draw_batch
from mmfl_jax.engine.client import Client, Facts, begin, end, local_step
from mmfl_jax.engine.server import empty_sums
from mmfl_jax.federation import Federation
from mmfl_jax.models import Output
from mmfl_jax.ops import FORMS, conv_form, conv_general_dilated

# Two dense layers of 8 behind 5 x 2 (s1) or 5 x 3 (s2) values, each with its normalisation; projector 8-8-4; 3 classes.
LOCAL = 2 * (8 + 8) + 2 * (8 + 8)  # scale, bias, mean and variance of two normalisations
PROJECTOR = (8 * 8 + 8) + (8 * 4 + 4)
HEAD = 8 * 3 + 3
S1 = (10 * 8 + 8) + (8 * 8 + 8) + LOCAL + PROJECTOR
S2 = (15 * 8 + 8) + (8 * 8 + 8) + LOCAL + PROJECTOR
HELD = [("s1",), ("s2",), ("s1", "s2")]
SIZES = [7, 12, 9]


def made(**options):
    return simulation(ragged_federation(SIZES, HELD), method="mf+mim", mim_size=4, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"private": "head"}, [S1, S2, S1 + S2]),
        ({"private": "norm"}, [S1 + HEAD - LOCAL, S2 + HEAD - LOCAL, S1 + S2 + HEAD - 2 * LOCAL]),
        ({"mim_positives": "pairs"}, [S1 + HEAD, S2 + HEAD, S1 + S2 + HEAD]),
    ],
    ids=["private head", "private norm", "pairs"],
)
def test_bytes_are_four_for_every_number_sent(options, expected):
    sim = made(**options)
    # Sums and counts of 3 classes go up for each modality held, directions of 3 classes come down for each other one.
    slots = (
        [(15, 12), (15, 12), (30, 24)]
        if sim.program.objectives[0].options.mim_positives == "prototypes"
        else [(0, 0)] * 3
    )
    for group, (model, (up, down)) in enumerate(zip(expected, slots)):
        assert client_bytes(sim.program, sim.state, sim.execution.example(group), group) == (
            4 * (model + up),
            4 * (model + down),
        )


def test_bytes_of_places_are_those_of_the_clients_samples():
    archive = MemoryArchive(samples=40)
    held = [("radar", ("s1",), range(20)), ("optical", ("s2",), range(10, 30))]
    sim = simulation(Federation.of(archive, held, range(30, 40)), method="mf+mim", mim_size=4, mim_positives="places")
    assert client_bytes(sim.program, sim.state, sim.execution.example(0), 0, places=20) == (
        4 * (S1 + HEAD + 20 * 5),
        4 * (S1 + HEAD + 20 * 4),
    )
    assert sum(sim.attendance.traffic(g, [0])[0].sum() for g in (0, 1)) == 4 * (S1 + S2 + 2 * HEAD + 2 * 20 * 5)


def test_flops_of_a_scan_are_those_of_all_its_trips():
    weights, x = jnp.ones((5, 8, 8)), jnp.ones((4, 8))
    layers = lambda x, weights: jax.lax.scan(lambda x, w: (x @ w, None), x, weights)[0]
    twice = lambda x, weights: jax.lax.fori_loop(0, 2, lambda _, x: jax.jit(layers)(x, weights), x)
    assert flops(layers, x, weights) == pytest.approx(5 * 2 * 4 * 8 * 8, rel=0.01)
    assert flops(twice, x, weights) == pytest.approx(2 * 5 * 2 * 4 * 8 * 8, rel=0.01)


def test_a_client_of_everything_sends_what_the_round_adds_up():
    sim = made()
    sums = empty_sums(sim.program, sim.state, sim.execution.data, (1, 1, 1))
    added = jax.tree.leaves([sums["message"], sums["objectives"]])
    assert client_bytes(sim.program, sim.state, sim.execution.example(2), 2)[0] == 4 * sum(leaf.size for leaf in added)


class Dense(nnx.Module):
    """One dense layer over a flattened sample."""

    def __init__(self):
        self.head = nnx.Linear(400, 50, use_bias=False, rngs=nnx.Rngs(0))

    def __call__(self, images, train):
        return Output(self.head(images["s1"].reshape(-1, 400)), {})


@pytest.mark.parametrize("stream_mb", [0, 1])
def test_flops_of_a_dense_layer(stream_mb):
    archive = MemoryArchive(samples=60, shapes={"s1": (40, 10)}, classes=50)
    federation = Federation.of(archive, [("a", ("s1",), range(33)), ("b", ("s1",), range(33, 43))], range(43, 60))
    study = Study.of(method="mf", client_optimizer="sgd", batch_size=16, stream_mb=stream_mb)
    sim = Simulation(study, federation, make_model=lambda held: Dense())
    # Forward, and the gradient of the weights (that of the images is not needed): 2 operations each for 16 samples.
    products = 2 * 2 * 16 * 400 * 50
    step = step_flops(sim.program, sim.state, sim.execution.example(0), 0)
    # The optimizer touches each of the 20,000 weights a few times; the loss and the shuffle are small.
    assert products < step < 1.15 * products
    if stream_mb:
        cost = sim.cost()
        around = round_flops(sim.program, sim.state, sim.execution.example(0), 0)
        assert cost["flops_per_round"] == 4 * step + 2 * around  # 33 samples are three steps, 10 are one
        assert cost["peak_memory_bytes"] > 4 * 400 * 50


def convolution(padding, stride):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lambda x, w: conv_general_dilated(x, w, (stride, stride), padding, dimension_numbers=numbers)


@pytest.mark.parametrize("form", [None, *FORMS])
@pytest.mark.parametrize(
    # Taps along an axis of 12 that meet no padding: 3 for each of 10 outputs; 2 + 10 x 3 + 2; 5 x 3; 5 x 3 + 2.
    ("padding", "stride", "taps"),
    [("VALID", 1, 30), ("SAME", 1, 34), ("VALID", 2, 15), ("SAME", 2, 17)],
)
def test_flops_of_a_convolution_and_its_gradients_are_those_of_its_definition(padding, stride, taps, form):
    convolve = convolution(padding, stride)
    x, w = jnp.zeros((4, 12, 12, 3)), jnp.zeros((3, 3, 3, 5))
    expected = 2 * 4 * taps**2 * 3 * 5
    with conv_form(form):
        dy = jnp.zeros(jax.eval_shape(convolve, x, w).shape)
        gradient = lambda i: flops(lambda x, w, dy: jax.vjp(convolve, x, w)[1](dy)[i], x, w, dy)
        assert [flops(convolve, x, w), gradient(0), gradient(1)] == [expected] * 3


def test_flops_of_a_dense_layer_and_its_gradients_are_those_of_its_definition():
    x, w, dy = jnp.zeros((16, 400)), jnp.zeros((400, 50)), jnp.zeros((16, 50))
    gradients = lambda x, w, dy: jax.vjp(jnp.dot, x, w)[1](dy)
    assert flops(jnp.dot, x, w) == 2 * 16 * 400 * 50
    assert flops(gradients, x, w, dy) == 2 * 2 * 16 * 400 * 50


class Convolutions(nnx.Module):
    """Two convolutions, their mean over pixels and a head."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        options = {"padding": "VALID", "use_bias": False, "conv_general_dilated": conv_general_dilated, "rngs": rngs}
        self.first = nnx.Conv(4, 16, (3, 3), **options)
        self.second = nnx.Conv(16, 32, (3, 3), **options)
        self.head = nnx.Linear(32, 3, rngs=rngs)

    def __call__(self, images, train):
        return Output(self.head(self.second(self.first(images["s1"])).mean(axis=(1, 2))), {})


@pytest.fixture(scope="module")
def two_convolutions():
    archive = MemoryArchive(samples=60, shapes={"s1": (12, 12, 4)})
    clients = [(name, ("s1",), range(a, a + 20)) for name, a in (("a", 0), ("b", 20))]
    study = Study.of(method="mf", client_optimizer="sgd", batch_size=16, local_steps=3)
    return Simulation(study, Federation.of(archive, clients, range(40, 60)), make_model=lambda held: Convolutions())


def test_flops_of_a_step_of_two_convolutions(two_convolutions):
    sim = two_convolutions
    first, second = 2 * 16 * 10**2 * 9 * 4 * 16, 2 * 16 * 8**2 * 9 * 16 * 32
    products = 2 * first + 3 * second  # the gradient of the images is not needed
    step = step_flops(sim.program, sim.state, sim.execution.example(0), 0)
    # Beside them: the mean over pixels, the head, loss, shuffle, and two operations of SGD for each of 5,283 weights.
    assert products < step < 1.01 * products


def test_flops_of_a_round_count_every_local_step_of_every_client(two_convolutions):
    sim = two_convolutions

    def three_steps(state, data):
        facts = Facts(jnp.float32(20), jnp.int32(3), jnp.uint32(0), jnp.int32(0), jnp.int32(0))
        client = Client(sim.program, 0, state, state.clients[0], facts)
        batch = lambda i: draw_batch(sim.program, data, jnp.int32(0), facts.seed, jnp.int32(i))
        now = begin(client, batch(0))
        for i in range(3):
            now, _, _ = local_step(client, now, jnp.int32(i), batch(i))
        return end(client, now)

    unrolled = flops(three_steps, sim.state, sim.execution.example(0))
    assert sim.cost()["flops_per_round"] == pytest.approx(2 * unrolled, rel=1e-3)


def test_peak_memory_is_what_is_held_and_temporaries():
    compiled = jax.jit(lambda x: jnp.tanh(x @ x).sum()).lower(jnp.zeros((64, 64))).compile()
    parts = memory(compiled)
    assert parts["held"] == 4 * 64 * 64 + 4
    assert peak_memory(compiled) == parts["held"] + parts["temporaries"]
