"""Compare what XLA estimates whitening to cost on a TPU that is not here: forward and gradients, by method.

    python benchmarks/whitening_tpu.py [--topology v5e:2x2] [--rows 16384] [--channels 128] [--output FILE]

A layer of groups of four channels (moments, matrices, application; float32), as eight clients of the first stage of
ResNet-8 lie in lanes. A row a method: estimated microseconds, and which operations they are.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

from estimates import compile_for, costs

# isort: split
import jax
import jax.numpy as jnp
from common import emit

from mmfl_jax.ops import whitening
from mmfl_jax.planner.chips import Topology

GROUP, EPSILON = 4, 1e-3


def step(method: str) -> Any:
    """Return ``(x, scale, bias, direction) -> whitened x, gradients``."""

    def forward(x: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
        mean, covariance = whitening.group_moments(x, GROUP)
        matrix = whitening.whitening_matrix(whitening.shrink(covariance, EPSILON), method)
        return whitening.apply_whitening(x, mean, matrix, scale, bias)

    def both(x: jax.Array, scale: jax.Array, bias: jax.Array, direction: jax.Array) -> Any:
        out, back = jax.vjp(forward, x, scale, bias)
        return out, back(direction)

    return both


def main() -> None:
    """Print a row a method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--output", type=pathlib.Path, default=None)
    args = parser.parse_args()
    shape = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32)
    images, channels = shape(args.rows, args.channels), shape(args.channels)
    for method in ("cholesky", "newton_schulz"):  # zca needs eigenvalues, which a TPU finds one after the other
        compiled = compile_for(args.topology, step(method), images, channels, channels, images)
        found = costs(compiled, args.topology)
        row = {
            "benchmark": "whitening_tpu",
            "topology": args.topology,
            "rows": args.rows,
            "channels": args.channels,
            "method": method,
            "us": round(found.total() / Topology.read(args.topology).chip.clock * 1e6, 1),
            "largest": {name: round(cycles / found.total(), 3) for name, cycles in found.most_common(4)},
            "jax": jax.__version__,
        }
        emit(row, args.output)


if __name__ == "__main__":
    main()
