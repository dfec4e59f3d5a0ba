"""Estimate the forms of a convolution on a TPU that is not here, forward and both gradients, by XLA's own cycles.

    python benchmarks/ops_tpu.py [--topology v5e:2x2] [--clients 2,8,16,64] [--dtype float32,bfloat16] [--shapes ...]
        [--output benchmarks/results/ops_tpu.jsonl]

The shapes are those of ``benchmarks/ops.py``, batch 16. An operation stands alone here: that clients are laid side by
side and taken apart again is part of the packed form's cost, which whole networks do not pay (``steps_tpu.py``).
``ideal`` is the time of the products at the chip's bfloat16 peak. ``over_best`` of the chosen form is what the table
in ``mmfl_jax/ops/conv_choice.py`` should keep near 1.
"""

import argparse
import itertools
import pathlib

from estimates import compile_for, costs

import jax  # isort: skip
import jax.numpy as jnp
from common import emit
from ops import KINDS, SHAPES, spec_of

from mmfl_jax.ops.conv_choice import choose
from mmfl_jax.ops.convolution import _operation
from mmfl_jax.ops.platform import compiled_for
from mmfl_jax.planner.chips import Topology

FORMS = ("plain", "batched", "packed")
NAMES = "patch stem,stage 16,stage 32,down 16-32,short 16-32,stage 64,resnet s2 stem,resnet stage 1,resnet stage 2"


def measure(topology: str, name: str, kind: str, clients: int, dtype: str) -> list[dict]:
    """Return a row a form."""
    batch, space, channels, features, kernel, stride = SHAPES[name]
    spec = spec_of(space, kernel, stride)
    x, w, dy = (batch, *space, channels), (*spec.kernel, channels, features), (batch, *spec.out_space(), features)
    shapes = {"forward": (x, w), "input": (dy, w), "weight": (x, dy)}[kind]
    arguments = [jax.ShapeDtypeStruct((clients, *shape), dtype) for shape in shapes]
    found = {}
    for form in FORMS:
        operation = jax.vmap(_operation(spec_of(space, kernel, stride, form), kind))
        found[form] = costs(compile_for(topology, operation, *arguments)).total()
    with compiled_for("tpu"):
        chosen = choose(spec, kind, jnp.dtype(dtype), batch, channels, features, clients)
    chip = Topology.read(topology).chip
    flops = 2 * batch * jnp.prod(jnp.array(spec.out_space())).item() * channels * features * kernel ** len(space)
    return [
        {
            "topology": topology,
            "shape": name,
            "sizes": [batch, *space, channels, features, kernel, stride],
            "kind": kind,
            "clients": clients,
            "dtype": dtype,
            "form": form,
            "cycles_per_client": round(value / clients),
            "us_per_client": round(value / clients / chip.clock * 1e6, 2),
            "ideal_us": round(flops / chip.peak * 1e6, 2),
            "over_best": round(value / min(found.values()), 3),
            "chosen": form == chosen,
            "jax": jax.__version__,
        }
        for form, value in found.items()
    ]


def main() -> None:
    """Print a row a form, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--clients", default="2,8,16,64")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--shapes", default=NAMES, help="comma-separated names")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    args = parser.parse_args()
    grid = itertools.product(args.dtype.split(","), map(int, args.clients.split(",")), args.shapes.split(","), KINDS)
    for dtype, clients, name, kind in grid:
        for row in measure(args.topology, name, kind, clients, dtype):
            emit(row, args.output)


if __name__ == "__main__":
    main()
