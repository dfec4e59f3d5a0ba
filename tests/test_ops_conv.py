import functools
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import environment
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from mmfl_jax import ops
from mmfl_jax.ops import conv_matmul, conv_onednn

NHWC = ("NHWC", "HWIO", "NHWC")
CASES = {
    "same": ((2, 6, 5, 3), (3, 3, 3, 4), (1, 1), "SAME", {}),
    "stride 2": ((2, 7, 6, 3), (3, 3, 3, 4), (2, 2), "SAME", {}),
    "stride 2 even": ((2, 6, 6, 3), (2, 5, 3, 4), (2, 3), "SAME", {}),
    "1x1 stride 2": ((2, 7, 6, 3), (1, 1, 3, 4), (2, 2), "SAME", {}),
    "lower": ((2, 6, 6, 3), (3, 3, 3, 4), (2, 2), "SAME_LOWER", {}),
    "valid, dilated kernel": ((2, 8, 7, 3), (3, 2, 3, 4), (1, 2), "VALID", {"rhs_dilation": (2, 1)}),
    "dilated input": ((2, 4, 5, 3), (3, 3, 3, 4), (1, 1), ((2, 2), (1, 0)), {"lhs_dilation": (2, 3)}),
    "odd padding": ((2, 9, 6, 3), (2, 5, 3, 4), (3, 2), ((-1, 1), (4, 0)), {}),
    "groups": ((2, 6, 5, 4), (3, 3, 2, 6), (1, 2), "SAME", {"feature_group_count": 2}),
    "1-D": ((2, 17, 3), (3, 3, 4), (2,), "SAME", {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    "channels first": ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), "SAME", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
}


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)  # jax.random compiles anew for every shape


def close(ours, theirs, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, np.abs(b).max()))


def tolerance_of(form):
    return 1e-4 if form == "onednn_bf16x3" else 1e-5  # without one of the three products 2e-3


def bound(conv, case):
    *_, strides, padding, options = case
    return functools.partial(conv, window_strides=strides, padding=padding, **({"dimension_numbers": NHWC, **options}))


def value_and_gradients(conv, x, w):
    y, backward = jax.vjp(conv, x, w)
    return y, *backward(jnp.cos(y))


def over_cases(conv, clients):
    """Return one function (so one compilation) from the operands of all cases to values and gradients."""
    return jax.jit(
        lambda data: {
            name: clients(functools.partial(value_and_gradients, bound(conv, CASES[name])))(*data[name])
            for name in data
        }
    )


@functools.cache
def reference(dtype):
    data = {
        name: tuple(jnp.asarray(normal(i, 2, *shape), dtype) for i, shape in enumerate(case[:2]))
        for name, case in CASES.items()
    }
    one_by_one = lambda f: lambda x, w: jax.tree.map(lambda *t: jnp.stack(t), *map(f, x, w))  # no grouped convolution
    return data, over_cases(lax.conv_general_dilated, one_by_one)(data)


@pytest.mark.parametrize("form", [*ops.FORMS, None])
def test_every_form_agrees_with_lax(form):
    data, expected = reference("float32")
    if form == "plain":
        data, expected = ({name: t[name] for name in ("stride 2", "groups")} for t in (data, expected))
    with ops.conv_form(form):
        close(over_cases(ops.conv_general_dilated, jax.vmap)(data), expected, tolerance_of(form))


def test_bfloat16():
    data, expected = reference("bfloat16")
    close(over_cases(ops.conv_general_dilated, jax.vmap)(data), expected, 3e-2)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    size=st.integers(4, 7),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from([(0, 0), (2, 1), (1, 3)])),
)
def test_any_geometry(size, kernel, strides, padding):
    x, w = normal(0, 2, size, size, 2), normal(1, *kernel, 2, 3)
    case = (None, None, strides, padding, {})

    def results(conv):
        return jax.jit(functools.partial(value_and_gradients, bound(conv, case)))(x, w)

    expected = results(lax.conv_general_dilated)
    for form in ("onednn", "onednn_bf16x3", "im2col", "paired", "rows"):  # the forms whose geometry is their own
        with ops.conv_form(form):
            close(results(ops.conv_general_dilated), expected, tolerance_of(form))


@pytest.mark.parametrize("strides", [(1, 1), (2, 1)])
def test_rows_in_several_blocks(strides, monkeypatch):
    monkeypatch.setattr(conv_matmul, "_BLOCK_PIXELS", 12)  # rows of 6: blocks of two, and one row left over
    x, w = normal(0, 2, 5 * strides[0], 6, 3), normal(1, 3, 3, 3, 4)
    case = (None, None, strides, "SAME", {})
    results = lambda conv: jax.jit(functools.partial(value_and_gradients, bound(conv, case)))(x, w)
    with ops.conv_form("rows"):
        close(results(ops.conv_general_dilated), results(lax.conv_general_dilated))


@pytest.mark.parametrize("batch", [17, 24])  # whole, and in two blocks
def test_onednn_weight_gradient_in_blocks_of_images(batch):
    x, w = normal(0, batch, 5, 6, 3), normal(1, 3, 3, 3, 4)
    results = lambda conv: jax.jit(functools.partial(value_and_gradients, bound(conv, CASES["same"])))(x, w)
    with ops.conv_form("onednn"):
        close(results(ops.conv_general_dilated), results(lax.conv_general_dilated))


@pytest.mark.skipif("bfloat16" not in conv_onednn.onednn_types(), reason="no instructions for bfloat16")
def test_three_products_of_bfloat16_are_nearly_float32s():
    x, w = normal(0, 4, 12, 12, 64) * np.logspace(-3, 3, 64, dtype=np.float32), normal(1, 3, 3, 64, 32)
    exact = _float64_forward(x, w)

    def error(form, dtype="float32"):
        with ops.conv_form(form):
            y = ops.conv_general_dilated(
                jnp.asarray(x, dtype), jnp.asarray(w, dtype), (1, 1), "SAME", dimension_numbers=NHWC
            )
        return np.std(np.asarray(y, np.float64) - exact) / np.std(exact)

    assert error("onednn_bf16x3") < 8e-6
    assert error("onednn", "bfloat16") > 1e-3  # what one product gives: the three are all there


def _float64_forward(x, w):
    """Return the SAME convolution by a kernel of 3x3, summed in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return sum(
        padded[:, i : i + height, j : j + width] @ w[i, j].astype(np.float64) for i in range(3) for j in range(3)
    )


@pytest.mark.parametrize("asked, three", [(None, True), ("high", True), ("highest", False), ("float32", False)])
def test_precision_decides_on_three_products(asked, three, monkeypatch):
    monkeypatch.setattr(conv_onednn, "_processor_flags", lambda: frozenset({"avx512_bf16", "amx_bf16"}))
    x, w = jnp.zeros((4, 16, 16, 64)), jnp.zeros((3, 3, 64, 64))
    operands = lambda precision: str(jax.make_jaxpr(lambda x, w: value_and_gradients(bound_to(precision), x, w))(x, w))
    bound_to = lambda precision: functools.partial(
        ops.conv_general_dilated, window_strides=(1, 1), padding="SAME", dimension_numbers=NHWC, precision=precision
    )
    # Forward and input gradient are three calls each, the weight gradient is one.
    assert operands(asked).count("__onednn$convolution") == (7 if three else 3)
    with jax.default_matmul_precision(asked):
        assert operands(None).count("__onednn$convolution") == (7 if three else 3)


@pytest.mark.skipif(not conv_onednn.onednn_types(), reason="this jaxlib's oneDNN is not at hand or not tested")
def test_onednn_only_where_it_is_tested(monkeypatch):
    x, w = (jnp.asarray(normal(i, *shape)) for i, shape in enumerate(((2, 6, 5, 8), (3, 3, 8, 8))))

    def calls_onednn():
        conv = bound(ops.conv_general_dilated, CASES["same"])
        return "onednn" in jax.jit(lambda x, w: conv(x, w)).lower(x, w).as_text()

    assert calls_onednn()
    monkeypatch.setattr(conv_onednn, "onednn_types", frozenset)
    jax.clear_caches()
    assert not calls_onednn()


SAME = CASES["stride 2"]


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("clients", [1, 3, 10])
def test_vmap_over_either_operand(axes, clients):
    x, w = ([clients] * (a == 0) + list(s) for a, s in zip(axes, SAME[:2]))
    x, w = normal(0, *x), normal(1, *w)

    def both(conv):
        conv = bound(conv, SAME)
        of_each = jax.vmap(functools.partial(value_and_gradients, conv), axes)
        total = lambda x, w: jnp.sin(jax.vmap(conv, axes)(x, w)).sum()
        return jax.jit(lambda x, w: (of_each(x, w), jax.grad(total, (0, 1))(x, w)))(x, w)

    close(both(ops.conv_general_dilated), both(lax.conv_general_dilated))


def test_nested_vmap_and_groups_with_one_side():
    case = CASES["groups"]
    x, w = normal(0, 2, 3, *case[0]), normal(1, 3, *case[1])

    def results(conv):
        inner = jax.vmap(functools.partial(value_and_gradients, bound(conv, case)))
        return jax.jit(jax.vmap(inner, (0, None)))(x, w)

    close(results(ops.conv_general_dilated), results(lax.conv_general_dilated))


@pytest.mark.parametrize("form", ["canonical", "im2col"])
def test_second_derivative(form):
    x, w = normal(0, *SAME[0]), normal(1, *SAME[1])

    def penalty(conv):
        conv = bound(conv, SAME)
        slope = jax.grad(lambda x, w: jnp.sin(conv(x, w)).sum(), (0, 1))
        norm = lambda x, w: sum(jnp.sum(g**2) for g in slope(x, w))
        return jax.jit(jax.grad(norm, (0, 1)))(x, w)

    with ops.conv_form(form):
        close(penalty(ops.conv_general_dilated), penalty(lax.conv_general_dilated), 1e-4)


def test_nothing_is_computed_for_an_input_without_gradient():
    x, w = normal(0, *SAME[0]), normal(1, *SAME[1])
    conv = bound(ops.conv_general_dilated, SAME)
    count = lambda argument: jax.jit(jax.grad(lambda x, w: (conv(x, w) ** 2).sum(), argument)).lower(x, w).compile()
    flops = [count(argument).cost_analysis()["flops"] for argument in (1, (0, 1))]
    assert flops[0] < 0.75 * flops[1]


def local_training(conv, p, x, steps):
    """Train a net of two convolutions by gradient descent, in a loop whose bound is traced."""

    def loss(p):
        y = jax.nn.relu(conv(x, p[0], (1, 1), "SAME", dimension_numbers=NHWC))
        y = conv(y, p[1], (2, 2), "SAME", dimension_numbers=NHWC)
        return jnp.mean(y**2)

    step = lambda _, p: jax.tree.map(lambda a, g: a - 0.1 * g, p, jax.grad(loss)(p))
    return lax.fori_loop(0, steps, step, p)


@pytest.mark.parametrize("clients", [1, 2])
def test_inside_loops(clients):
    p = (normal(0, 2, clients, 3, 3, 2, 4), normal(1, 2, clients, 3, 3, 4, 3))
    x = normal(2, 2, clients, 2, 6, 6, 2)

    def chunks(conv):
        train = jax.vmap(functools.partial(local_training, conv), (0, 0, None))
        return jax.jit(lambda p, x, n: lax.scan(lambda c, t: (c, train(*t, n)), 0, (p, x))[1])(p, x, 3)

    close(chunks(ops.conv_general_dilated), chunks(lax.conv_general_dilated))


def test_inside_shard_map():
    program = """
        import functools, sys
        sys.path.insert(0, TESTS)
        import jax, jax.numpy as jnp
        from jax import lax
        from jax.sharding import Mesh, PartitionSpec as P
        from mmfl_jax import ops
        from test_ops_conv import close, local_training, normal

        mesh = Mesh(jax.devices(), ("clients",))
        p, x = (normal(0, 3, 3, 2, 4), normal(1, 3, 3, 4, 3)), normal(2, 16, 2, 6, 6, 2)

        def round_of(conv):
            def device(p, x, steps):
                p = jax.tree.map(lambda a: lax.pcast(a, ("clients",), to="varying"), p)
                train = jax.vmap(functools.partial(local_training, conv), (None, 0, None))
                total = lax.scan(lambda c, x: (c, train(p, x[None], steps)), 0, x)[1]
                return jax.tree.map(lambda a: lax.psum(a.sum((0, 1)), "clients"), total)
            f = jax.shard_map(device, mesh=mesh, in_specs=(P(), P("clients"), P()), out_specs=P())
            return jax.jit(f)(p, x, 2)

        def replicated(conv):  # the kernel stays replicated: its gradient is summed over devices
            def device(w, x):
                y, back = jax.vjp(lambda w: conv(x, w, (1, 1), "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC")), w)
                return back(jnp.ones_like(y))[0]
            return jax.jit(jax.shard_map(device, mesh=mesh, in_specs=(P(), P("clients")), out_specs=P()))(p[0], x[:, 0])

        assert len(jax.devices()) == 8
        close(round_of(ops.conv_general_dilated), round_of(lax.conv_general_dilated))
        close(replicated(ops.conv_general_dilated), replicated(lax.conv_general_dilated))
    """
    program = f"TESTS = {os.path.dirname(__file__)!r}\n" + textwrap.dedent(program)
    root = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment(8) | {"PYTHONPATH": root},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_under_nnx_conv():
    layers = [
        nnx.Conv(3, 4, (3, 3), strides=2, feature_group_count=1, conv_general_dilated=conv, rngs=nnx.Rngs(0))
        for conv in (ops.conv_general_dilated, lax.conv_general_dilated)
    ]
    x = normal(0, 2, 6, 6, 3)
    close(*(nnx.value_and_grad(lambda m: (m(x) ** 2).sum())(layer) for layer in layers))


def test_what_lax_refuses_is_refused_and_what_is_rare_is_passed_on():
    x, w = normal(0, 2, 6, 6, 3), normal(1, 3, 3, 2, 4)
    with pytest.raises(ValueError, match="feature_group_count"):
        ops.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)
    x, w = normal(0, 4, 6, 6, 2), normal(1, 3, 3, 2, 4)
    options = {"dimension_numbers": NHWC, "batch_group_count": 2}
    close(*(f(x, w, (1, 1), "SAME", **options) for f in (ops.conv_general_dilated, lax.conv_general_dilated)))


def test_form_by_context_and_by_environment(monkeypatch):
    with pytest.raises(ValueError, match="none of canonical"):
        ops.conv_form("winograd")
    x, w = normal(0, *SAME[0]), normal(1, *SAME[1])
    text = lambda: jax.jit(bound(ops.conv_general_dilated, SAME)).lower(x, w).as_text()
    with ops.conv_form("im2col"):
        assert "dot_general" in text()
    with ops.conv_form("canonical"):
        assert "dot_general" not in text()
    monkeypatch.setenv("MMFL_JAX_CONV_FORM", "im2col")
    assert "dot_general" in text()
