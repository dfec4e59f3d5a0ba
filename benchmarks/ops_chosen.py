"""Say how far from the best form lies the one that is chosen for a convolution on TPU, over all rows kept.

    python benchmarks/ops_chosen.py [--rows benchmarks/results/ops_tpu.jsonl]

``HELD_OUT`` are the shapes whose rows were made after the rule in ``mmfl_jax/ops/conv_choice.py`` was drawn from the
others: they say what it is worth elsewhere.
"""

import argparse
import collections
import json
import pathlib

import jax.numpy as jnp
from ops import spec_of

from mmfl_jax.ops.conv_choice import choose
from mmfl_jax.ops.platform import compiled_for

ROWS = pathlib.Path(__file__).parent / "results" / "ops_tpu.jsonl"
HELD_OUT = ("resnet s1 stem", "resnet down 2", "point 16", "point 64", "fedjax 1", "fedjax 2")
NEAR = 1.1

# Topology, shape, kind, clients, dtype.
Operation = tuple[str, str, str, int, str]


def read(path: pathlib.Path = ROWS) -> list[dict]:
    """Return the rows of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def ratios(rows: list[dict]) -> dict[Operation, float]:
    """Return for every operation the cycles of the chosen form over those of the best."""
    cycles: dict[Operation, dict[str, int]] = collections.defaultdict(dict)
    chosen = {}
    for row in rows:
        operation = row["topology"], row["shape"], row["kind"], row["clients"], row["dtype"]
        cycles[operation][row["form"]] = row["cycles_per_client"]
        batch, *space, channels, features, kernel, stride = row["sizes"]
        spec = spec_of(tuple(space), kernel, stride)
        with compiled_for("tpu"):
            chosen[operation] = choose(
                spec, row["kind"], jnp.dtype(row["dtype"]), batch, channels, features, row["clients"]
            )
    compared = {one: forms for one, forms in cycles.items() if forms.keys() >= {"plain", "packed"}}
    return {one: forms[chosen[one]] / min(forms.values()) for one, forms in compared.items()}


def main() -> None:
    """Print the share within 1.1 and the worst, for groups of operations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=pathlib.Path, default=ROWS)
    found = ratios(read(parser.parse_args().rows))
    groups: dict[str, dict[Operation, float]] = collections.defaultdict(dict)
    for one, ratio in found.items():
        topology, shape, kind, clients, dtype = one
        held = "held out" if shape in HELD_OUT else "drawn from"
        for name in ("all", held, topology, kind, f"{clients} clients", dtype, f"{held}, {topology}, {dtype}"):
            groups[name][one] = ratio
    for name, of in sorted(groups.items()):
        worst = max(of, key=of.__getitem__)
        near = sum(ratio <= NEAR for ratio in of.values())
        print(f"{name:32} {near:4} of {len(of):4} within {NEAR} ({near / len(of):.0%}), worst {of[worst]:.2f}: {worst}")


if __name__ == "__main__":
    main()
