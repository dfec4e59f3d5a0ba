"""Which form a convolution takes, by platform and shape."""

import math
import os

import jax
import jax.numpy as jnp

from mmfl_jax.errors import UserError
from mmfl_jax.ops.conv_direct import pairs
from mmfl_jax.ops.conv_onednn import onednn_computes, onednn_three_passes
from mmfl_jax.ops.conv_spec import ConvSpec
from mmfl_jax.ops.platform import traced_platform

FORMS = ("canonical", "onednn", "onednn_bf16x3", "im2col", "paired", "rows", "batched", "packed", "plain")

# Part of jit's cache key: entering the context compiles anew instead of finding the other form's code.
_forced = jax.make_user_context(default_value=None)


def conv_form(form: str | None):
    """Force one form on all convolutions traced within this context; None is the choice by shape.

    Gradients take the form that was in force where the convolution was called.

    Raises:
        ValueError: if ``form`` is none of ``FORMS``.
    """
    return _forced(_known(form))


def forced_form() -> str | None:
    """Return the form that ``conv_form``, else the variable ``MMFL_JAX_CONV_FORM``, asks for."""
    try:
        return _forced.value or _known(os.environ.get("MMFL_JAX_CONV_FORM") or None)
    except ValueError as error:
        raise UserError(f"MMFL_JAX_CONV_FORM: {error}") from None


def _known(form: str | None) -> str | None:
    if form is not None and form not in FORMS:
        raise ValueError(f"convolution form {form!r} is none of {', '.join(FORMS)}")
    return form


def choose(spec: ConvSpec, kind: str, dtype: jnp.dtype, batch: int, channels: int, features: int, clients: int) -> str:
    """Return the form for one of the three kinds: ``forward``, ``input`` or ``weight`` gradient.

    The CPU rule is measured (``benchmarks/results/ops_cpu*.jsonl``). TPU's stands on XLA's estimates for a convolution
    by itself (``ops_tpu.jsonl``: 1 to 64 clients on v5e, 8 on v6e): a network in lanes is packed throughout. GPU's is a
    guess until there are rows: grouped convolutions are slow there and batched matmuls fast, so one where the columns
    are not much larger than the input, and the plain form elsewhere.
    """
    if spec.form is not None:
        return spec.form
    platform = traced_platform()
    if platform == "cpu":
        return _choose_cpu(spec, kind, dtype, batch, channels, features)
    if clients == 1 or spec.groups > 1:
        return "plain"
    if platform == "tpu":
        return "packed" if _packing_pays(spec, kind, dtype, channels, features, clients) else "plain"
    columns = batch * math.prod(spec.out_space()) * channels * math.prod(spec.kernel)
    return "batched" if columns <= 2**22 else "plain"


def _packing_pays(spec: ConvSpec, kind: str, dtype: jnp.dtype, channels: int, features: int, clients: int) -> bool:
    """Return whether laying clients side by side for one operation pays on a TPU: for few channels and large images."""
    size, narrow, wide = math.prod(spec.space), min(channels, features), max(channels, features)
    # Lanes twice over: laying side by side costs less of each; in bfloat16 it costs as much as before.
    if clients >= 16 and dtype == jnp.float32 and wide <= {"forward": 16, "input": 0, "weight": 32}[kind]:
        return size >= 32**2
    few = clients < 4
    least = {"forward": math.inf, "input": 60**2 if few else 32**2, "weight": math.inf if few else 60**2}[kind]
    return narrow <= 16 and size >= least


def _choose_cpu(spec: ConvSpec, kind: str, dtype: jnp.dtype, batch: int, channels: int, features: int) -> str:
    onednn, taps = onednn_computes(spec, kind, dtype), math.prod(spec.kernel)
    if spec.groups > 1:
        return "onednn" if onednn else "canonical"
    if taps == 1:  # a matmul as it stands, but one to [channels, features] over many rows is slow
        if onednn and max(spec.strides) == 1 and (dtype == jnp.bfloat16 or (kind == "weight" and channels >= 64)):
            return "onednn"
        small = len(spec.space) == 2 and channels * features <= 256  # XLA's own kernel has no columns to lay out
        return "canonical" if (kind == "weight" or small) and max(spec.strides) == 1 else "im2col"
    inner, outer = (features, channels) if kind == "input" else (channels, features)
    # Two bfloat16 of each operand take their time, which sums of many products make up for.
    if onednn and kind != "weight" and inner * taps >= 256 and onednn_three_passes(spec, dtype):
        return "onednn_bf16x3"
    # Else two bands, images' own gradient, and that of a small kernel leave most of oneDNN's tiles empty. In bfloat16
    # XLA's kernels are slower still.
    few = {
        "forward": channels <= 2 and dtype == jnp.float32,
        "input": channels <= (4 if features < 64 else 10),
        "weight": channels * features <= 160,
    }
    if onednn and not few[kind]:
        return "onednn"
    if kind == "forward" and len(spec.space) == 1:
        return "im2col"  # series leave the convolution kernel idle
    # XLA's kernel computes 64 features at once; with few channels as well it does little else than load and store.
    narrow = inner <= 2 or (inner <= 16 and outer <= 32) or (kind == "input" and channels <= 10 and features >= 64)
    if kind != "weight" and narrow and pairs(spec if kind == "forward" else spec.input_gradient()):
        return "paired"
    # dy plays the kernel in the canonical weight gradient, and is read anew for every channel: from memory, once it is
    # larger than the caches.
    if kind == "weight" and channels >= 32 and batch * math.prod(spec.out_space()) * features > 2**19:
        return "rows"
    return "canonical"  # columns cost more memory traffic than the matmul gains
