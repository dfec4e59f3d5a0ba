"""Measure what it costs to train on an archive that stays on disk: rounds streamed from it, beside resident ones.

    python benchmarks/streaming.py ARCHIVE [--stream-mb 20] [--image-size 120] [--clients 40] [--rounds 4]
        [--encoder resnet8] [--devices N] [--output FILE]

ARCHIVE is a reference such as ``bigearthnet:PREPARED``. Both simulations are of one federation, a sensor a client, and
take turns, a round each. A row says seconds a round of both, their ratio and that of processor time (medians of pairs;
other work on the machine lengthens processor time less), what share of a streamed round the device waits for data, the
bytes of training images in all and of the two waves that a device holds at most, and how far the final parameters lie
apart.
"""

from __future__ import annotations

import statistics
import time

import jax
import numpy as np
from common import emit, host, parser, use_devices

from mmfl_jax import Federation, Simulation, Study, archives


def main() -> None:
    """Print a row."""
    options = parser(__doc__)
    options.add_argument("archive")
    options.add_argument("--stream-mb", type=int, default=20)
    options.add_argument("--image-size", type=int, default=120)
    options.add_argument("--clients", type=int, default=40)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--encoder", default="resnet8")
    args = options.parse_args()
    use_devices(args.devices)
    archive = archives.open(args.archive, image_size=args.image_size)
    federation = Federation.split(archive, "iid", clients=args.clients)
    study = Study.of(method="mf", encoder=args.encoder, rounds=args.rounds, batch_size=16, client_optimizer="sgd")
    made = {
        "resident": Simulation(study, federation),
        "streamed": Simulation(study.replace(stream_mb=args.stream_mb), federation),
    }
    rows: dict[str, list[dict]] = {name: [] for name in made}
    for simulation in made.values():
        simulation.compile()
    for _ in range(args.rounds):
        for name, simulation in made.items():
            begin = time.process_time()
            found = simulation.run_round()
            rows[name].append(found | {"processor": time.process_time() - begin})
    # The first round of a process still loads and allocates.
    seconds = {name: statistics.median(row["seconds"] for row in found[1:]) for name, found in rows.items()}
    pairs = list(zip(rows["streamed"][1:], rows["resident"][1:]))
    ratio = lambda what: round(statistics.median(s[what] / r[what] for s, r in pairs), 3)
    images = sum(x.values.nbytes for data in made["resident"].execution.data for x in data.images.values())
    parameters = [jax.tree.leaves(simulation.state.params) for simulation in made.values()]
    row = {
        "benchmark": "streaming",
        "archive": archive.name,
        "samples": len(federation.train),
        "clients": federation.clients,
        "image_bytes": images,
        "image_bytes_on_device": args.stream_mb << 20,
        "seconds_per_round_resident": round(seconds["resident"], 3),
        "seconds_per_round_streamed": round(seconds["streamed"], 3),
        "streamed_to_resident": ratio("seconds"),
        "streamed_to_resident_processor": ratio("processor"),
        "device_waiting": round(statistics.median(row["device_waiting"] for row in rows["streamed"][1:]), 4),
        "largest_difference": max(float(np.abs(a - b).max()) for a, b in zip(*parameters)),
    }
    emit({**row, **host()}, args.output)


if __name__ == "__main__":
    main()
