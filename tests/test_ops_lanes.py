"""Clients on channels against clients apart: a whole network, its gradients, and its statistics."""

import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from devices import environment
from flax import nnx
from test_ops_conv import close, normal

from mmfl_jax import ops
from mmfl_jax.models import Normalization
from mmfl_jax.models.decoders import DECODERS
from mmfl_jax.models.encoders import ResNet, ResNetDesign
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.ops import lanes
from mmfl_jax.ops.platform import compiled_for

ROOT = os.path.dirname(os.path.dirname(__file__))
# Of operations whose chosen form is near the best by estimate: with shapes that the rule was drawn from, and held out.
# The farthest is a 1x1 convolution's kernel.
SHARES, WORST = {False: 0.9, True: 0.75}, 1.7
sys.path.insert(0, os.path.join(ROOT, "benchmarks"))

import ops_chosen  # noqa: E402

SHAPE = (6, 6, 3)


def network(norm="batch", whitened=False, width=4):
    """Return the structure of a residual network, its parameters and its statistics."""
    options = Normalization(ModelOptions(norm=norm), whitened)
    return nnx.split(ResNet(SHAPE, ResNetDesign((0, 1), width), options, nnx.Rngs(0)), nnx.Param, ...)


def clients_of(tree, clients):
    """Return the tree with a client axis, every client a little different."""
    leaves, structure = jax.tree.flatten(tree)
    vary = lambda i, leaf: leaf + 0.05 * leaf.std() * normal(i, clients, *leaf.shape)
    return jax.tree.unflatten(structure, [vary(i, leaf) for i, leaf in enumerate(leaves)])


def loss(graph, params, stats, x):
    """Return what a step needs: a number, and the moments that the network leaves."""
    model = nnx.merge(graph, params, stats, copy=True)
    y = model(x, True)
    return jnp.sin(3 * y).mean(), (y, nnx.state(model, nnx.BatchStat))


def results(form, function, *arguments):
    """Return the function's results where convolutions, and networks with them, take a form."""
    with ops.conv_form(form):
        return jax.jit(function)(*arguments)


@pytest.mark.parametrize("norm, whitened, clients", [("batch", False, 3), ("group", False, 3), ("none", True, 6)])
def test_a_network_in_lanes_is_the_network(norm, whitened, clients, monkeypatch):
    monkeypatch.setattr(lanes, "LANES", 12)  # three clients of 4 channels at a time
    graph, params, stats = network(norm, whitened)
    params, x = clients_of(params, clients), normal(1, clients, 2, *SHAPE)
    stats = jax.tree.map(lambda a: jnp.broadcast_to(a, (clients, *a.shape)), stats)
    step = jax.vmap(jax.value_and_grad(functools.partial(loss, graph), (0, 2), has_aux=True))
    close(results("packed", step, params, stats, x), results("batched", step, params, stats, x))


class Pixels(nnx.Module):
    """An encoder and a decoder."""

    def __init__(self, decoder, norm):
        self.encoder = ResNet((8, 8, 3), ResNetDesign((1, 1), 4), norm, nnx.Rngs(0))
        self.decoder = DECODERS[decoder](self.encoder, norm, nnx.Rngs(1))

    def __call__(self, x, train):
        return self.decoder(self.encoder.maps(x, train), train)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_decoder_in_lanes_is_the_decoder(decoder, monkeypatch):
    monkeypatch.setattr(lanes, "LANES", 8)  # two clients of 4 channels at a time
    graph, params, stats = nnx.split(Pixels(decoder, Normalization(ModelOptions())), nnx.Param, ...)
    params, x = clients_of(params, 4), normal(1, 4, 2, 8, 8, 3)
    step = jax.vmap(jax.value_and_grad(functools.partial(loss, graph), (0, 2), has_aux=True), (0, None, 0))
    close(results("packed", step, params, stats, x), results("batched", step, params, stats, x))


def test_all_clients_share_parameters():
    graph, params, stats = network()
    x = normal(1, 3, 2, *SHAPE)
    total = lambda params, x: jax.vmap(functools.partial(loss, graph), (None, None, 0))(params, stats, x)[0].sum()
    close(*(results(form, jax.grad(total, (0, 1)), params, x) for form in ("packed", "batched")))


def test_second_derivative():
    graph, params, stats = network()
    x = normal(1, 2, 2, *SHAPE)
    params = clients_of(params, 2)

    def penalty(params, x):
        slope = jax.grad(lambda params, x: loss(graph, params, stats, x)[0], (0, 1))(params, x)
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(slope))

    step = jax.vmap(jax.grad(penalty, (0, 1)))
    close(results("packed", step, params, x), results("batched", step, params, x), 1e-4)


def test_on_a_tpu_and_nowhere_else(monkeypatch):
    graph, params, stats = network(width=16)
    params = clients_of(params, 16)
    x = normal(1, 16, 2, *SHAPE)
    widths = []
    whole = lanes._packed
    monkeypatch.setattr(lanes, "_packed", lambda f, clients, a: (widths.append(clients), whole(f, clients, a))[1])
    step = jax.vmap(functools.partial(loss, graph), (0, None, 0))
    trace = lambda: jax.eval_shape(step, params, stats, x)
    trace()
    assert not widths
    with compiled_for("tpu"):
        trace()
    assert widths == [8, 8]  # 128 lanes of 16 channels, twice


def test_inside_shard_map():
    program = """
        import functools, sys
        sys.path.insert(0, TESTS)
        import jax, jax.numpy as jnp
        from jax import lax
        from jax.sharding import Mesh, PartitionSpec as P
        from test_ops_lanes import SHAPE, close, loss, network, normal, results

        mesh = Mesh(jax.devices(), ("clients",))
        graph, params, stats = network()

        def device(params, stats, x):
            params, stats = jax.tree.map(lambda a: lax.pcast(a, ("clients",), to="varying"), (params, stats))
            train = jax.vmap(jax.grad(functools.partial(loss, graph), has_aux=True), (None, None, 0))
            return jax.tree.map(lambda a: lax.psum(a.sum(0), "clients"), train(params, stats, x))

        everywhere = jax.shard_map(device, mesh=mesh, in_specs=(P(), P(), P("clients")), out_specs=P())
        x = normal(1, 4, 2, *SHAPE)
        close(*(results(form, everywhere, params, stats, x) for form in ("packed", "batched")))
    """
    program = f"TESTS = {os.path.dirname(__file__)!r}\n" + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(2) | {"PYTHONPATH": ROOT},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_chosen_forms_are_near_the_best_by_estimate():
    found = ops_chosen.ratios(ops_chosen.read())
    for held_out, share in SHARES.items():
        ratios = [ratio for one, ratio in found.items() if (one[1] in ops_chosen.HELD_OUT) == held_out]
        assert sum(ratio <= ops_chosen.NEAR for ratio in ratios) >= share * len(ratios) > 0
    assert max(found.values()) < WORST
