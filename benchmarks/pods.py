"""Read what a round is on a TPU pod that is not here: XLA compiles for it on this machine.

    python benchmarks/pods.py [--topologies v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16] [--model mlp|resnet8] [--clients 10000]
        [--cohort 1024] [--chunk 4] [--span 1] [--private norm] [--output FILE]

Needs the extra ``tpu`` (libtpu, which locks itself: one such process at a time). Answers, for each topology: how many
collectives the compiled round has, by kind, and how many of them stand in its loops (those over "samples", once a
step); the bytes of the largest; and the memory of a chip by XLA's account (arguments: samples, memory and model;
temporaries). Nothing runs and no array is made: the program is lowered on shapes. ``--clients`` are registered and keep
``--private`` variables from round to round, ``--cohort`` of them take part.
"""

from __future__ import annotations

import os

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "JAX_PLATFORMS": "cpu",
}

import dataclasses
import math
import re
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import emit, host, parser, random_federation
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmfl_jax import Study, costs
from mmfl_jax.algorithms import find
from mmfl_jax.engine.batches import GroupData, Rows
from mmfl_jax.engine.mesh import AXIS, SPAN
from mmfl_jax.engine.plan import Planner, local_steps
from mmfl_jax.engine.round import make_round, state_specs
from mmfl_jax.federation.placement import Placement
from mmfl_jax.study.build import program_of

MODELS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "mlp": ({"s1": (17, 2), "s2": (17, 9)}, {"encoder": "mlp", "width": 64}),
    "resnet8": ({"s1": (32, 32, 2), "s2": (32, 32, 10)}, {"encoder": "resnet8"}),
}
SAMPLES, STEPS = 16, 2
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def lowered(mesh: Mesh, args: Any) -> Any:
    """Return the round of a federation, lowered for the devices of a mesh."""
    shapes, options = MODELS[args.model]
    study = Study.of(method="mf+fw+mim", batch_size=16, client_optimizer="sgd", private=args.private, **options)
    federation = random_federation(args.clients, SAMPLES, shapes)
    program, make = program_of(study, federation, find("fedavg"))
    program = dataclasses.replace(program, span=args.span)
    sizes = [group.sizes for group in federation.groups]
    steps = [local_steps(size, 1, 16, STEPS) for size in sizes]
    placement = Placement.of(steps, sizes, mesh.devices.shape[0])
    cohort = args.cohort // len(steps)
    planner = Planner(steps, [args.chunk] * len(steps), placement, [cohort] * len(steps))
    plans, _ = planner.lay([np.arange(cohort) for _ in steps])
    state = jax.eval_shape(lambda: program.init(make(tuple(shapes)), 19, 0, placement))

    def on(tree: Any, spec: P) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    specs = {field.name: getattr(state_specs(), field.name) for field in dataclasses.fields(state)}
    state = dataclasses.replace(state, **{name: on(getattr(state, name), spec) for name, spec in specs.items()})
    data = []
    for homes, size, held in zip(placement.groups, sizes, program.groups):
        number = jax.ShapeDtypeStruct((homes.devices * homes.rows,), jnp.int32)
        samples = mesh.size * -(-int(np.bincount(homes.device, size).max()) // args.span)
        images = {m: Rows(jax.ShapeDtypeStruct((samples, math.prod(shapes[m])), jnp.float32), shapes[m]) for m in held}
        labels = jax.ShapeDtypeStruct((samples, 19), jnp.uint8)
        everywhere = P((AXIS, SPAN))
        table = [on(number, P(AXIS))] * 3
        data.append(GroupData(on(images, everywhere), on(labels, everywhere), None, *table, None))
    key = on(jax.eval_shape(lambda: jax.random.key(0)), P())
    return make_round(program, mesh, tuple(planner.most)).lower(state, tuple(data), on(plans, P(AXIS)), key)


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Return by kind how many collectives a program has, how many of them in loops, and the bytes of the largest."""
    found = {kind: {"count": 0, "in_loops": 0, "largest_bytes": 0} for kind in COLLECTIVES}
    bodies = set(re.findall(r"body=%?([\w.\-]+)", text))
    inside = False
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith(" "):
            inside = line.split(" ")[0].lstrip("%") in bodies
        for kind, row in found.items():
            if match := re.search(rf"= (.*?) {kind}(?:-start)?\(", line):
                row["count"] += 1
                row["in_loops"] += inside
                row["largest_bytes"] = max(row["largest_bytes"], bytes_of(match[1]))
    return {kind: row for kind, row in found.items() if row["count"]}


def bytes_of(shapes: str) -> int:
    """Return the bytes of the arrays that XLA's text names."""
    sizes = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "u8": 1, "pred": 1}
    arrays = re.findall(r"(f32|s32|u32|bf16|u8|pred)\[([\d,]*)\]", shapes)
    return sum(sizes[kind] * math.prod(map(int, filter(None, shape.split(",")))) for kind, shape in arrays)


def main() -> None:
    """Print a row for each topology."""
    options = parser(__doc__)
    options.add_argument("--topologies", default="v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16")
    options.add_argument("--model", choices=MODELS, default="mlp")
    options.add_argument("--clients", type=int, default=10_000)
    options.add_argument("--cohort", type=int, default=1024)
    options.add_argument("--chunk", type=int, default=4)
    options.add_argument("--span", type=int, default=1)
    options.add_argument("--private", default="norm")
    args = options.parse_args()
    for name in args.topologies.split(",")[: 1 if args.quick else None]:
        devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)
        mesh = Mesh(devices.reshape(-1, args.span), (AXIS, SPAN))
        round_ = lowered(mesh, args)
        begin = time.perf_counter()
        compiled = round_.compile()
        row = {
            "benchmark": "pods",
            "topology": name,
            "chips": mesh.size,
            "span": args.span,
            "model": args.model,
            "clients": args.clients,
            "cohort": args.cohort,
            "private": args.private,
            "compile_seconds": round(time.perf_counter() - begin, 1),
            "collectives": collectives(compiled.as_text()),
            "bytes_per_chip": costs.memory(compiled),
        }
        emit({**row, **host()}, args.output)


if __name__ == "__main__":
    main()
