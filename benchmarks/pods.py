"""Read what a round is on a TPU pod that is not here: XLA compiles for it on this machine.

    python benchmarks/pods.py [--topologies v5e:2x2,v5e:4x4,v5e:8x8,v5e:16x16] [--model mlp|resnet8] [--clients 10000]
        [--cohort 1024] [--chunk 4] [--span 1] [--private norm] [--output FILE]

Needs the extra ``tpu`` (libtpu). Answers, for each topology: how many
collectives the compiled round has, by kind, and how many of them stand in its loops (those over "samples", once a
step); the bytes of the largest; the memory of a chip by XLA's account (arguments: samples, memory and model;
temporaries); and which samples the round copies before it reads them. Nothing runs and no array is made: the program is
lowered on shapes. ``--clients`` are registered and keep ``--private`` variables from round to round, ``--cohort`` of
them take part.
"""

from __future__ import annotations

import os

from mmfl_jax.planner.process import ENVIRONMENT

os.environ |= ENVIRONMENT

import time
from typing import Any

from common import emit, host, parser, random_federation

from mmfl_jax import Study, costs, memory
from mmfl_jax.planner.abstract import AbstractRounds
from mmfl_jax.planner.chips import Topology
from mmfl_jax.planner.hlo import Text, collective_of
from mmfl_jax.planner.plan import copied_data
from mmfl_jax.planner.pod import devices_of

MODELS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any]]] = {
    "mlp": ({"s1": (17, 2), "s2": (17, 9)}, {"encoder": "mlp", "width": 64}),
    "resnet8": ({"s1": (32, 32, 2), "s2": (32, 32, 10)}, {"encoder": "resnet8"}),
}
SAMPLES, STEPS = 16, 2


def abstract(name: str, args: Any) -> AbstractRounds:
    """Return the rounds of a federation on the devices of a topology."""
    shapes, options = MODELS[args.model]
    federation = random_federation(args.clients, SAMPLES, shapes)
    study = Study.of(
        method="mf+fw+mim",
        batch_size=16,
        local_steps=STEPS,
        client_optimizer="sgd",
        private=args.private,
        participation=f"per-group:{args.cohort // len(federation.groups)}",
        chunk_size=args.chunk,
        devices_per_client=args.span,
        **options,
    )
    with memory.unlimited():
        topology = Topology.read(name)
        return AbstractRounds(study, devices_of(topology), federation, device_bytes=topology.chip.hbm)


def collectives(text: Text) -> dict[str, dict[str, int]]:
    """Return by kind how many collectives a program has, how many of them in local steps, and the largest's bytes."""
    found: dict[str, dict[str, int]] = {}
    for one, _, place in text.placed:
        if kind := collective_of(one):
            row = found.setdefault(kind, {"count": 0, "in_loops": 0, "largest_bytes": 0})
            row["count"] += 1
            row["in_loops"] += place.step
            row["largest_bytes"] = max(row["largest_bytes"], one.bytes)
    return found


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
        rounds = abstract(name, args)
        lowered = rounds.lowered()
        begin = time.perf_counter()
        compiled = lowered.compile()
        text = Text(compiled.as_text())
        row = {
            "benchmark": "pods",
            "topology": name,
            "chips": rounds.mesh.size,
            "span": args.span,
            "model": args.model,
            "clients": args.clients,
            "cohort": args.cohort,
            "private": args.private,
            "compile_seconds": round(time.perf_counter() - begin, 1),
            "collectives": collectives(text),
            "bytes_per_chip": costs.memory(compiled),
            "copied_data": copied_data(text),
        }
        emit({**row, **host()}, args.output)


if __name__ == "__main__":
    main()
