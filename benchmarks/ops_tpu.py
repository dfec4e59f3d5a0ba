"""Estimate the forms of a convolution on a TPU that is not here, forward and both gradients, by XLA's own cycles.

    python benchmarks/ops_tpu.py [--topology v5e:2x2] [--clients 2,4,8,16] [--dtype float32,bfloat16] [--shapes ...]
        [--forms plain,batched,packed] [--output benchmarks/results/ops_tpu.jsonl]
    python benchmarks/ops_chosen.py  # how far from the best what is chosen lies

The shapes are those of ``benchmarks/ops.py``, batch 16. An operation stands alone here: that clients are laid side by
side and taken apart again is part of the packed form's cost, which whole networks do not pay (``steps_tpu.py``).
``ideal`` is the time of the products at the chip's bfloat16 peak. What ``--output`` holds already is not compiled
again, so a run that was stopped goes on.
"""

import argparse
import itertools
import json
import pathlib
from importlib.metadata import version

from estimates import compile_for, costs

import jax  # isort: skip
from common import emit
from ops import KINDS, SHAPES, operand_shapes, spec_of

from mmfl_jax.ops.convolution import _operation
from mmfl_jax.planner.chips import Topology

FORMS = "plain,batched,packed"
NAMES = (
    "patch stem,stage 16,stage 32,down 16-32,short 16-32,stage 64,down 64-128,stage 64 at 8 px,stage 128,"
    "resnet s2 stem,resnet stage 1,resnet stage 2"
)


# Of programs that were compiled: two forms may come to the same one.
_cycles: dict[tuple[str, str], int] = {}


def measure(topology: str, name: str, kind: str, clients: int, dtype: str, form: str) -> dict:
    """Return a row."""
    batch, space, channels, features, kernel, stride = SHAPES[name]
    *shapes, flops = operand_shapes(SHAPES[name], kind)
    arguments = [jax.ShapeDtypeStruct((clients, *shape), dtype) for shape in shapes]
    operation = jax.vmap(_operation(spec_of(space, kernel, stride, form), kind))
    program = topology, str(jax.make_jaxpr(operation)(*arguments))
    if program not in _cycles:
        _cycles[program] = costs(compile_for(topology, operation, *arguments), topology).total()
    cycles = _cycles[program] / clients
    chip = Topology.read(topology).chip
    return {
        "topology": topology,
        "shape": name,
        "sizes": [batch, *space, channels, features, kernel, stride],
        "kind": kind,
        "clients": clients,
        "dtype": dtype,
        "form": form,
        "cycles_per_client": round(cycles),
        "us_per_client": round(cycles / chip.clock * 1e6, 2),
        "ideal_us": round(flops / chip.peak * 1e6, 2),
        "jax": jax.__version__,
        "libtpu": version("libtpu"),
    }


def kept(output: pathlib.Path | None) -> set[tuple]:
    """Return what a file has rows of."""
    lines = output.read_text().splitlines() if output and output.exists() else []
    keys = ("topology", "shape", "kind", "clients", "dtype", "form")
    return {tuple(json.loads(line)[key] for key in keys) for line in lines}


def main() -> None:
    """Print a row a form, and append it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--clients", default="2,4,8,16")
    parser.add_argument("--dtype", default="float32,bfloat16")
    parser.add_argument("--shapes", default=NAMES, help="comma-separated names")
    parser.add_argument("--forms", default=FORMS, help="comma-separated names")
    parser.add_argument("--output", type=pathlib.Path, default=None)
    args = parser.parse_args()
    there, words = kept(args.output), lambda text: text.split(",")
    clients, dtypes, shapes, forms = map(words, (args.clients, args.dtype, args.shapes, args.forms))
    for n, dtype, name, kind, form in itertools.product(map(int, clients), dtypes, shapes, KINDS, forms):
        if (args.topology, name, kind, n, dtype, form) not in there:
            emit(measure(args.topology, name, kind, n, dtype, form), args.output)


if __name__ == "__main__":
    main()
