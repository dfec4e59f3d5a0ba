"""A convolution that stays fast under vmap over clients and inside loops."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from mmfl_jax.ops.conv_choice import choose, forced_form
from mmfl_jax.ops.conv_forms import KERNELS
from mmfl_jax.ops.conv_spec import ConvSpec, same_axes
from mmfl_jax.ops.lanes import clients_in_lanes

# Up to this many clients their convolutions are written one after another; more run in a loop, which is 1.4 times
# slower on CPU (gathering and scattering the clients' arrays) but compiles in the time of one.
UNROLL = 8


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    out_sharding: Any = None,
) -> Array:
    """Convolve as ``jax.lax.conv_general_dilated`` does, in the form that is fast on this platform.

    Takes the same arguments, gives the same results and errors, and may be vmapped over lhs, rhs or both,
    nested, and differentiated in reverse any number of times. Forward-mode differentiation raises TypeError.
    Batch groups, explicit shardings, and arrays that are not real floating point go to ``jax.lax`` as they are.
    """
    if precision is None:  # read here: gradients are traced later, out of the caller's context
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    feature_group_count *= clients_in_lanes()
    reference = functools.partial(
        lax.conv_general_dilated,
        window_strides=window_strides,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        batch_group_count=batch_group_count,
        precision=precision,
        preferred_element_type=preferred_element_type,
        out_sharding=out_sharding,
    )
    rank = np.ndim(lhs) - 2
    ours = batch_group_count == 1 and out_sharding is None and rank > 0 and jnp.issubdtype(lhs.dtype, jnp.floating)
    if not ours or 0 in lhs.shape or 0 in rhs.shape:
        return reference(lhs, rhs)
    out = jax.eval_shape(reference, lhs, rhs)  # raises what jax.lax raises
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    x = lhs.transpose(numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1])
    w = rhs.transpose(*numbers.rhs_spec[2:], numbers.rhs_spec[1], numbers.rhs_spec[0])
    lhs_dilation = tuple(lhs_dilation or (1,) * rank)
    rhs_dilation = tuple(rhs_dilation or (1,) * rank)
    if isinstance(padding, str):
        effective = [(k - 1) * d + 1 for k, d in zip(w.shape[:rank], rhs_dilation)]
        padding = lax.padtype_to_pads(x.shape[1:-1], effective, window_strides, padding)
    spec = ConvSpec(
        space=x.shape[1:-1],
        kernel=w.shape[:rank],
        strides=tuple(window_strides),
        padding=tuple((int(lo), int(hi)) for lo, hi in padding),
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        groups=feature_group_count,
        precision=precision if precision is None or isinstance(precision, str | lax.Precision) else tuple(precision),
        dtype=out.dtype if out.dtype != lhs.dtype else None,
        form=forced_form() or ("packed" if clients_in_lanes() > 1 else None),
    )
    y = _operation(spec, "forward")(*same_axes(x, w))
    back = np.argsort((numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1]))
    return y.transpose(*back)


@functools.lru_cache(maxsize=1024)
def _operation(spec: ConvSpec, kind: str) -> Any:
    """Return one of the three bilinear operations, with reverse-mode derivatives that are the other two.

    forward y = F(x, w), input gradient dx = X(dy, w), weight gradient dw = W(x, dy). The derivative rule
    stands outside of the client rule, so vmap of grad and grad of vmap both reach the client rule.
    """
    batched = _client_rule(spec, kind)
    backward: Any = {
        "forward": lambda x, w, dy: (("input", dy, w), ("weight", x, dy)),
        "input": lambda dy, w, gx: (("forward", gx, w), ("weight", gx, dy)),
        "weight": lambda x, dy, gw: (("input", dy, gw), ("forward", x, gw)),
    }[kind]

    @jax.custom_vjp
    def operation(a: Array, b: Array) -> Array:
        return batched(a, b)

    def bwd(residuals, g):
        return tuple(_operation(spec, other)(a, b) for other, a, b in backward(*residuals, g))

    operation.defvjp(lambda a, b: (operation(a, b), (a, b)), bwd)
    return operation


@functools.lru_cache(maxsize=1024)
def _client_rule(spec: ConvSpec, kind: str):
    """Return one operation for one client, with the rule that says what vmap over clients makes of it."""

    def chosen(a: tuple[int, ...], b: tuple[int, ...], dtype: jnp.dtype, clients: int) -> str:
        return choose(spec, kind, dtype, *_sizes(spec, kind, a, b), clients)

    def one(a: Array, b: Array) -> Array:
        return _run(spec, kind, chosen(a.shape, b.shape, (a if kind == "weight" else b).dtype, 1), a, b)

    operation = custom_vmap(one)

    @operation.def_vmap
    def _(clients, batched, a, b):
        if clients == 1:  # the usual chunk on CPU: nothing may be added to the operations of one client
            return operation(*(t[0] if axis else t for t, axis in zip((a, b), batched)))[None], True
        if not all(batched):
            merge = _MERGED.get((kind, batched.index(True), spec.groups == 1))
            if merge is not None:
                return _merged(operation, clients, batched, (a, b), *merge), True
            a, b = (t if axis else jnp.broadcast_to(t, (clients, *t.shape)) for t, axis in zip((a, b), batched))
        form = chosen(a.shape[1:], b.shape[1:], (a if kind == "weight" else b).dtype, clients)
        if form == "packed":
            return _packed(spec, kind, clients, a, b), True
        if form in ("batched", "plain"):
            return jax.vmap(functools.partial(_run, spec, kind, form))(a, b), True
        if clients <= UNROLL:
            return jnp.stack([operation(a[i], b[i]) for i in range(clients)]), True
        return lax.map(lambda pair: operation(*pair), (a, b)), True

    return operation


def _run(spec: ConvSpec, kind: str, form: str, a: Array, b: Array) -> Array:
    # Where the output has a type of its own, dy comes in that type.
    a, b = {"forward": (a, b), "input": (a.astype(b.dtype), b), "weight": (a, b.astype(a.dtype))}[kind]
    return KERNELS[form][kind](spec, a, b)


# With one operand alone for every client, clients go on its batch, channels or features, and come back on the
# result's: (kind, which operand, no groups) -> (axis of the operand, axis of the result).
_MERGED = {
    ("forward", 0, True): (0, 0),
    ("forward", 0, False): (0, 0),
    ("forward", 1, True): (-1, -1),
    ("input", 0, True): (0, 0),
    ("input", 0, False): (0, 0),
    ("input", 1, True): (-2, -1),
    ("weight", 0, True): (-1, -2),
    ("weight", 1, True): (-1, -1),
}


def _packed(spec: ConvSpec, kind: str, clients: int, a: Array, b: Array) -> Array:
    """Convolve clients as groups: they go on the last axis, and come back from it."""
    side_by_side = lambda t: jnp.moveaxis(t, 0, -2).reshape(*t.shape[1:-1], -1)
    wide = dataclasses.replace(spec, groups=clients * spec.groups)
    y = _run(wide, kind, "packed", side_by_side(a), side_by_side(b))
    return jnp.moveaxis(y.reshape(*y.shape[:-1], clients, -1), -2, 0)


def _merged(operation, clients, batched, operands, axis, out_axis):
    which = batched.index(True)
    t = operands[which]
    axis %= t.ndim - 1
    t = jnp.moveaxis(t, 0, axis)
    t = t.reshape(*t.shape[:axis], -1, *t.shape[axis + 2 :])
    y = operation(*(t if i == which else other for i, other in enumerate(operands)))
    out_axis %= y.ndim
    y = y.reshape(*y.shape[:out_axis], clients, -1, *y.shape[out_axis + 1 :])
    return jnp.moveaxis(y, out_axis, 0)


def _sizes(spec: ConvSpec, kind: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, int, int]:
    """Return batch, channels and features from the shapes of one client's operands."""
    channels, features = {
        "forward": (a[-1], b[-1]),
        "input": (b[-2] * spec.groups, a[-1]),
        "weight": (a[-1], b[-1]),
    }[kind]
    return a[0], channels, features
