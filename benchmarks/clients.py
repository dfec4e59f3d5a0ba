"""Measure what registered clients cost that do not take part: one cohort of a small and of a very large federation.

    python benchmarks/clients.py [--quick] [--clients 10000,1000000] [--cohort 4096] [--rounds 20] [--algorithm NAME]
        [--private WORDS] [--client-memory device|host] [--devices N] [--output FILE]

Answers: does a round depend on clients that it does not ask, where every client keeps something from round to round
(``scaffold``: a control variate as large as the model; ``--private norm``: its own norms), what do set-up and
evaluation take, and is memory what the formula says: of each client what it keeps, its samples, and ``TABLE_BYTES`` in
tables. Clients hold two samples of a series of 4 x 2 each and take two steps; federations take turns, a round each.
Seconds are medians over rounds after the first. A process of its own for every federation measures set-up and memory.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from common import RandomArchive, emit, host, parser, use_devices

from mmfl_jax import Federation, Simulation, Study
from mmfl_jax.federation.partition import Parts

SAMPLES = 2
# What a client has in tables beside its samples and its memory, on host and device: its name, number, size, where it
# begins, its home, row and steps.
TABLE_BYTES = 250


def peak_bytes() -> int:
    """Return the most memory that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def federation_of(clients: int) -> Federation:
    """Return clients of two samples each; two modalities by turns."""
    archive = RandomArchive(clients * SAMPLES + 64, {"s1": (4, 2), "s2": (4, 3)}, 5)
    samples = np.arange(clients * SAMPLES)
    names = np.array([f"c{i}" for i in range(clients)])
    parts = Parts(names, samples, np.arange(clients + 1) * SAMPLES)
    which = np.arange(clients) % 2
    test = np.arange(clients * SAMPLES, len(archive))
    return Federation.stack(archive, parts, [("s1",), ("s2",)], which, test)


def simulation_of(clients: int, options: dict[str, Any]) -> tuple[Simulation, dict[str, Any]]:
    """Return a compiled simulation, and what setting it up took."""
    begin, before = time.perf_counter(), peak_bytes()
    federation = federation_of(clients)
    dealt = time.perf_counter()
    study = Study.of(
        method="mf",
        encoder="mlp",
        width=16,
        local_steps=2,
        batch_size=2,
        client_optimizer="sgd",
        rounds=1000,
        **options,
    )
    simulation = Simulation(study, federation)
    made = time.perf_counter()
    simulation.compile()
    kept = sum(x.nbytes for x in jax.tree.leaves(simulation.state.clients))
    return simulation, {
        "clients": clients,
        "deal_seconds": round(dealt - begin, 2),
        "set_up_seconds": round(made - dealt, 2),
        "compile_seconds": round(time.perf_counter() - made, 2),
        "kept_bytes_per_client": round(kept / clients, 1),
        "bytes_before": before,
    }


def alone(clients: int, options: dict[str, Any], rounds: int) -> None:
    """Print what a federation takes in a process of its own."""
    simulation, row = simulation_of(clients, options)
    for _ in range(rounds):
        simulation.run_round()
    begin = time.perf_counter()
    simulation.evaluate()
    row["evaluate_seconds"] = round(time.perf_counter() - begin, 2)
    begin = time.perf_counter()
    simulation.federation.describe()
    row["describe_seconds"] = round(time.perf_counter() - begin, 2)
    print(json.dumps({**row, "peak_bytes": peak_bytes()}))


def main() -> None:
    """Print a row for each federation."""
    options = parser(__doc__)
    options.add_argument("--clients", default="10000,1000000")
    options.add_argument("--cohort", type=int, default=4096)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--algorithm", default="scaffold")
    options.add_argument("--private", default="")
    options.add_argument("--client-memory", default="device")
    options.add_argument(
        "--alone", type=int, default=0, help="measure one federation of so many clients, in this process"
    )
    args = options.parse_args()
    use_devices(args.devices)
    if args.quick:
        args.clients, args.cohort, args.rounds = "500,2000", 100, 3
    study = {"participation": str(args.cohort), "algorithm": args.algorithm, "private": args.private}
    study["client_memory"] = args.client_memory
    if args.alone:
        return alone(args.alone, study, 2)
    sizes = [int(n) for n in args.clients.split(",")]
    given = [
        "--cohort",
        args.cohort,
        "--algorithm",
        args.algorithm,
        "--private",
        args.private,
        "--client-memory",
        args.client_memory,
        "--devices",
        args.devices,
    ]
    measured = []
    for size in sizes:
        command = [sys.executable, __file__, "--alone", size, *given]
        measured.append(json.loads(subprocess.check_output([str(part) for part in command]).splitlines()[-1]))
    simulations = [simulation_of(size, study)[0] for size in sizes]
    seconds: list[list[float]] = [[] for _ in sizes]
    for _ in range(args.rounds):
        for simulation, found in zip(simulations, seconds):
            found.append(simulation.run_round()["seconds"])
    medians = [statistics.median(found[1:]) for found in seconds]
    for row, median, found in zip(measured, medians, seconds):
        samples = SAMPLES * (4 * math.ceil(2.5 * 4) + 5)
        explained = row["clients"] * (row["kept_bytes_per_client"] + samples + TABLE_BYTES)
        more = {
            "benchmark": "clients",
            "algorithm": args.algorithm,
            "private": args.private,
            "client_memory": args.client_memory,
            "cohort": args.cohort,
            "rounds": args.rounds,
            "seconds_per_round": round(median, 4),
            "fastest_seconds": round(min(found[1:]), 4),
            "to_the_smallest": round(median / medians[0], 3),
            "explained_bytes": int(explained),
        }
        emit({**more, **row, **host()}, args.output)
    return None


if __name__ == "__main__":
    main()
