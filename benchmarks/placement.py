"""Tell what each chip of a pod holds of the whole of BigEarthNet-MM v2, and how many chips idle: arithmetic, no run.

    python benchmarks/placement.py [--chips 16,256] [--batch 64] [--output FILE]

Owners are the ten countries (real sizes), or a thousand pieces of them; each holds one modality, as the engine deals
them, images of 120 x 120 in float32, an epoch a round. A row has the devices to a client (1, and the engine's choice),
gigabytes of images on the fullest chip and as they were when every chip had all, and the share of all chips' time in a
round that passes waiting for the busiest home.
"""

from __future__ import annotations

import numpy as np
from common import emit, host, parser

from mmfl_jax.archives.twin.statistics import COUNTRY_SIZES
from mmfl_jax.engine.plan import Planner, local_steps
from mmfl_jax.federation.assignment import assign_modalities
from mmfl_jax.federation.partition import Part, Parts
from mmfl_jax.federation.placement import Placement, best_span

SAMPLE_BYTES = {"s1": 120 * 120 * 2 * 4, "s2": 120 * 120 * 10 * 4}
MODALITIES = tuple(SAMPLE_BYTES)


def pieces(clients: int) -> np.ndarray:
    """Return the sizes of about so many owners, random pieces of the countries."""
    rng = np.random.default_rng(0)
    shares = np.maximum(1, np.round(clients * COUNTRY_SIZES / COUNTRY_SIZES.sum())).astype(int)
    cut = lambda size, count: np.sort(rng.choice(np.arange(1, size), count - 1, replace=False))
    ends = [np.concatenate([[0], cut(n, k), [n]]) for n, k in zip(COUNTRY_SIZES.tolist(), shares.tolist())]
    return np.concatenate([np.diff(e) for e in ends])


def row_of(owners: str, owned: np.ndarray, chips: int, batch: int, span: int) -> dict:
    """Return what one placement has on a chip; ``span`` 0 is the engine's choice."""
    parts = Parts.of([Part(str(i), np.arange(size)) for i, size in enumerate(owned.tolist())])
    _, sets, held = assign_modalities(parts, MODALITIES, "single", 0)
    sizes = [parts.sizes[held == i] for i in range(len(sets))]
    steps = [local_steps(s, 1, batch) for s in sizes]
    span = span or best_span(steps, sizes, chips, batch, len(owned))
    placement = Placement.of(steps, sizes, chips // span)
    counts = [len(s) for s in sizes]
    _, work = Planner(steps, [1] * len(sets), placement, counts).lay([np.arange(n) for n in counts])
    each = [SAMPLE_BYTES[m] for (m,) in sets]
    fullest = [np.bincount(h.device, s, h.devices).max() / span for h, s in zip(placement.groups, sizes)]
    return {
        "benchmark": "placement",
        "owners": owners,
        "clients": len(owned),
        "chips": chips,
        "batch": batch,
        "devices_per_client": span,
        "gigabytes_per_chip": round(sum(n * b for n, b in zip(fullest, each)) / 1e9, 2),
        "gigabytes_everywhere": round(sum(int(s.sum()) * b for s, b in zip(sizes, each)) / 1e9, 1),
        "idle": round(work.metrics().get("idle_devices", 0.0), 4),
    }


def main() -> None:
    """Print the rows."""
    options = parser(__doc__)
    options.add_argument("--chips", default="16,256")
    options.add_argument("--batch", type=int, default=64)
    args = options.parse_args()
    for owners, owned in {"country": COUNTRY_SIZES, "pieces": pieces(1000)}.items():
        for chips in map(int, args.chips.split(",")):
            for span in (1, 0):
                emit({**row_of(owners, owned, chips, args.batch, span), **host()}, args.output)


if __name__ == "__main__":
    main()
