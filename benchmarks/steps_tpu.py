"""Estimate a chunk's local step on a TPU that is not here, by XLA's own cycles and by where they go.

    python benchmarks/steps_tpu.py [--topology v5e:2x2] [--encoder resnet8] [--decoder unet] [--shape 32,32,10]
        [--chunk 8,16] [--whitened] [--precision float32] [--forms batched,plain,lanes]
        [--output benchmarks/results/steps_tpu.jsonl]

A step is forward, backward and SGD of an encoder, batch 16, of images or (``--encoder mlp --shape 12,18``) series;
with ``--decoder``, of what labels pixels. ``lanes`` is what is chosen for a TPU, the others force one form on all
convolutions, with clients apart. ``share_of_peak`` counts the products of convolutions and dense layers alone, against
the chip's bfloat16 peak ("float32" multiplies in bfloat16 there). Layouts of the arguments are free, so what a round
pays to draw a batch is not in it.
"""

import argparse
import math
import pathlib
import time
from collections.abc import Callable

from estimates import compile_for, costs

import jax  # isort: skip
import jax.numpy as jnp
from common import emit
from flax import nnx

from mmfl_jax import ops
from mmfl_jax.models import Normalization
from mmfl_jax.models.decoders import DECODERS
from mmfl_jax.models.encoders import make_encoder
from mmfl_jax.models.options import ModelOptions
from mmfl_jax.planner.chips import Topology

BATCH = 16


class Network(nnx.Module):
    """Encode a sample, and label its pixels where there is a decoder."""

    def __init__(self, encoder: str, decoder: str, shape: tuple[int, ...], norm: Normalization):
        self.encoder = make_encoder(encoder, shape, 0, norm, nnx.Rngs(0))
        self.decoder = DECODERS[decoder](self.encoder, norm, nnx.Rngs(0)) if decoder else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return features, of each pixel with a decoder."""
        return self.encoder(x, True) if self.decoder is None else self.decoder(self.encoder.maps(x, True), True)


def local_step(make: Callable[[], Network], shape: tuple[int, ...]) -> tuple[Callable, tuple]:
    """Return one client's step and the shapes of its arguments."""
    graph, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)

    def loss(params, rest, x, target):
        model = nnx.merge(graph, params, rest, copy=True)
        return jnp.mean((model(x) - target) ** 2), nnx.state(model, nnx.BatchStat)

    def step(params, rest, x, target):
        (_, stats), slope = jax.value_and_grad(loss, has_aux=True)(params, rest, x, target)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, slope), stats

    x = jax.ShapeDtypeStruct((BATCH, *shape), jnp.float32)
    target = jax.eval_shape(lambda x: make()(x).astype(jnp.float32), x)
    return step, (params, rest, x, target)


def products(jaxpr) -> list[int]:
    """Return the operations of each convolution and matrix product of a program, the first first."""
    found = []
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, features = equation.invars[1].aval, equation.params["dimension_numbers"].rhs_spec[0]
            found.append(2 * equation.outvars[0].aval.size * kernel.size // kernel.shape[features])
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            found.append(2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in summed))
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            found += products(inner) if hasattr(inner, "eqns") else []
    return found


def operations(make: Callable[[], Network], shape: tuple[int, ...]) -> int:
    """Return the operations of a step's products: forward and two gradients, but none of the samples."""
    with ops.conv_form("plain"):
        first, *rest = products(jax.make_jaxpr(lambda x: make()(x))(jnp.zeros((BATCH, *shape))).jaxpr)
    return 2 * first + 3 * sum(rest)


def main() -> None:
    """Print a row a form and chunk, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--encoder", default="resnet8")
    parser.add_argument("--decoder", default="", choices=["", *DECODERS])
    parser.add_argument("--shape", default="32,32,10")
    parser.add_argument("--chunk", default="8,16")
    parser.add_argument("--whitened", action="store_true")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--forms", default="batched,plain,lanes")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    args = parser.parse_args()
    norm = Normalization(ModelOptions(precision=args.precision), whitened=args.whitened)
    shape = tuple(map(int, args.shape.split(",")))
    make = lambda: Network(args.encoder, args.decoder, shape, norm)
    step, arguments = local_step(make, shape)
    chip = Topology.read(args.topology).chip
    ideal = operations(make, shape) / chip.peak
    for chunk in map(int, args.chunk.split(",")):
        stacked = jax.tree.map(lambda a: jax.ShapeDtypeStruct((chunk, *a.shape), a.dtype), arguments)  # noqa: B023
        for form in args.forms.split(","):
            begin = time.perf_counter()
            with ops.conv_form(None if form == "lanes" else form):
                compiled = compile_for(args.topology, jax.vmap(step), *stacked)
            found = costs(compiled, args.topology)
            total = found.total()
            row = vars(args) | {"output": None, "forms": None, "chunk": chunk, "form": form}
            row |= {
                "cycles_per_client": round(total / chunk),
                "us_per_client": round(total / chunk / chip.clock * 1e6, 1),
                "share_of_peak": round(ideal / (total / chunk / chip.clock), 4),
                "temporaries_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1),
                "compile_seconds": round(time.perf_counter() - begin, 1),
                "largest": {name: round(cycles / total, 3) for name, cycles in found.most_common(6)},
                "jax": jax.__version__,
            }
            row = {name: value for name, value in row.items() if value is not None}
            emit(row, args.output)


if __name__ == "__main__":
    main()
