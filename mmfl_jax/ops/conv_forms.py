"""The forms of a convolution: each writes the forward and both gradients of one client."""

import functools
from collections.abc import Callable

from jax import Array

from mmfl_jax.ops.conv_direct import (
    canonical_input,
    canonical_weight,
    paired_forward,
    paired_input,
    plain_forward,
    plain_input,
    plain_weight,
)
from mmfl_jax.ops.conv_matmul import im2col_forward, im2col_input, im2col_weight, rows_weight
from mmfl_jax.ops.conv_onednn import onednn_forward, onednn_input, onednn_weight
from mmfl_jax.ops.conv_packed import packed_forward, packed_input, packed_weight
from mmfl_jax.ops.conv_spec import ConvSpec

Kernel = Callable[[ConvSpec, Array, Array], Array]

_im2col: dict[str, Kernel] = {"forward": im2col_forward, "input": im2col_input, "weight": im2col_weight}

KERNELS: dict[str, dict[str, Kernel]] = {
    "canonical": {"forward": plain_forward, "input": canonical_input, "weight": canonical_weight},
    "im2col": _im2col,
    "onednn": {"forward": onednn_forward, "input": onednn_input, "weight": onednn_weight},
    "onednn_bf16x3": {
        "forward": functools.partial(onednn_forward, three=True),
        "input": functools.partial(onednn_input, three=True),
        "weight": onednn_weight,
    },
    "paired": {"forward": paired_forward, "input": paired_input, "weight": canonical_weight},
    "rows": {"forward": plain_forward, "input": canonical_input, "weight": rows_weight},
    "batched": _im2col,
    "packed": {"forward": packed_forward, "input": packed_input, "weight": packed_weight},
    "plain": {"forward": plain_forward, "input": plain_input, "weight": plain_weight},
}
