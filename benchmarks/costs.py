"""Measure the price of each module: FLOPs, bytes, seconds and micro-F1 of FedAvg, MF, MF+FW and MF+FW+MIM.

    python benchmarks/costs.py [--quick] [--workload twin|land_cover|resnet18] [--rounds N] [--clients N] [--devices N]
        [--output FILE]

Answers: what does a module add to a round in floating-point operations, in bytes that a client sends and receives, and
in wall-clock, as a ratio to plain federated averaging (``unified``) and to MF, and how much micro-F1 does it gain for
it. The workload ``twin`` is ``experiments/quickstart.py`` with ``--rounds`` rounds, scored with both modalities on
its test samples: a few rounds of one seed rank modules roughly at best. ``land_cover`` is the study of that name,
labels by pixel, in the same way. ``resnet18`` holds random 60x60 images, half of the clients with 2 bands and half with
10, four steps in batches of 16, and has no score.

FLOPs are ``mmfl_jax.costs.step_flops`` times the local steps of all clients: forward, gradients and optimizer, without
the server's averaging. The configurations take turns, a round each, and seconds are medians over rounds: of the wall
clock, and of processor time, which other work on the machine lengthens less.
"""

from __future__ import annotations

import pathlib
import statistics
import time
from typing import Any

from common import emit, host, parser, random_federation, use_devices

from mmfl_jax import Federation, Simulation, Study, costs
from mmfl_jax.study import load_study
from mmfl_jax.study.build import open_federation

# name in the table: the study's method. FedAvg is one encoder over all channels, averaged over all clients.
CONFIGURATIONS = {"fedavg": "unified", "mf": "mf", "mf+fw": "mf+fw", "mf+fw+mim": "mf+fw+mim"}
STUDIES = {"twin": "quickstart", "land_cover": "land_cover"}


def studied(workload: str, rounds: int, quick: bool) -> tuple[Study, Federation]:
    """Return the study of a workload, of fewer samples in a quick run, and its federation."""
    path = pathlib.Path(__file__).parents[1] / "experiments" / f"{STUDIES[workload]}.py"
    study = load_study(str(path)).replace(rounds=rounds)
    if quick:
        study = study.replace(samples=400, image_size=16)
    return study, open_federation(study)


def resnet18(rounds: int, clients: int, steps: int) -> tuple[Study, Federation]:
    """Return a study of ResNet-18 on 60x60 images in batches of 16, and clients of random images."""
    study = Study.of(encoder="resnet18", batch_size=16, local_steps=steps, rounds=rounds)
    return study, random_federation(clients, 16 * steps, {"s1": (60, 60, 2), "s2": (60, 60, 10)})


def measure(study: Study, federation: Federation, scored: bool) -> list[dict[str, Any]]:
    """Return a row for each configuration."""
    simulations = {
        name: Simulation(study.replace(method=method), federation) for name, method in CONFIGURATIONS.items()
    }
    lines: dict[str, list[dict[str, Any]]] = {name: [] for name in simulations}
    for simulation in simulations.values():
        simulation.compile()
    for _ in range(study.training.rounds):
        for name, simulation in simulations.items():
            begin = time.process_time()
            line = simulation.run_round()
            lines[name].append({**line, "cpu_seconds": time.process_time() - begin})
    rows = [row_of(name, simulations[name], lines[name], scored) for name in simulations]
    for row in rows:
        compared(row, rows[0], rows[1])
    return rows


def row_of(name: str, simulation: Simulation, lines: list[dict[str, Any]], scored: bool) -> dict[str, Any]:
    """Return what one configuration cost and scored."""
    cost, last, program = simulation.cost(), lines[-1], simulation.program
    bytes_of = lambda group: costs.client_bytes(program, simulation.state, simulation.execution.example(group), group)
    traffic = {"+".join(held): bytes_of(group) for group, held in enumerate(program.groups)}
    # The first round of a process still loads and allocates.
    seconds = [line["seconds"] for line in lines[1:] or lines]
    both = "+".join(simulation.federation.archive.modalities)
    return {
        "benchmark": "costs",
        "configuration": name,
        "clients": int(last["clients"]),
        "client_steps": int(last["client_steps"]),
        "flops_per_round": cost["flops_per_round"],
        "flops_per_client": cost["flops_per_round"] / last["clients"],
        "bytes_up_per_round": int(last["bytes_up"]),
        "bytes_down_per_round": int(last["bytes_down"]),
        "bytes_up_and_down_of_a_client": traffic,
        "seconds_per_round": round(statistics.median(seconds), 4),
        "fastest_seconds_per_round": round(min(seconds), 4),
        # Of all threads: other work on the machine lengthens it less. On an accelerator it says nothing.
        "cpu_seconds_per_round": round(statistics.median(line["cpu_seconds"] for line in lines[1:] or lines), 4),
        "compile_seconds": round(cost["compile_seconds"], 2),
        "peak_memory_bytes": cost["peak_memory_bytes"],
        "rounds": len(lines),
        "f1_micro": round(simulation.evaluate()[both]["f1_micro"], 4) if scored else None,
    }


_COMPARED = (
    "flops_per_round",
    "bytes_up_per_round",
    "bytes_down_per_round",
    "seconds_per_round",
    "cpu_seconds_per_round",
)


def compared(row: dict[str, Any], fedavg: dict[str, Any], mf: dict[str, Any]) -> None:
    """Add to a row its ratios to FedAvg and MF, and its FLOPs beyond FedAvg's, as a share, a point of F1 gained."""
    for other in (fedavg, mf):
        for key in _COMPARED:
            row[f"{key}_to_{other['configuration']}"] = round(row[key] / other[key], 4)
    row["f1_points_gained"] = row["extra_flops_per_f1_point"] = None
    if row["f1_micro"] is not None:
        row["f1_points_gained"] = gained = round(100 * (row["f1_micro"] - fedavg["f1_micro"]), 2)
        if gained > 0:  # a loss, or nothing, has no price a point
            row["extra_flops_per_f1_point"] = round((row["flops_per_round_to_fedavg"] - 1) / gained, 5)


# header: width, format, field, unit
_COLUMNS = {
    "GFLOPs": (9, ".2f", "flops_per_round", 1e9),
    "/FedAvg": (7, ".3f", "flops_per_round_to_fedavg", 1),
    "/MF": (6, ".3f", "flops_per_round_to_mf", 1),
    "MB up": (8, ".3f", "bytes_up_per_round", 1e6),
    "/FedAvg ": (7, ".3f", "bytes_up_per_round_to_fedavg", 1),
    "MB down": (8, ".3f", "bytes_down_per_round", 1e6),
    "/FedAvg  ": (7, ".3f", "bytes_down_per_round_to_fedavg", 1),
    "seconds": (8, ".3f", "seconds_per_round", 1),
    "/FedAvg   ": (7, ".3f", "seconds_per_round_to_fedavg", 1),
    "/MF ": (6, ".3f", "seconds_per_round_to_mf", 1),
    "CPU s": (8, ".3f", "cpu_seconds_per_round", 1),
    "/FedAvg    ": (7, ".3f", "cpu_seconds_per_round_to_fedavg", 1),
    "F1": (6, ".4f", "f1_micro", 1),
    "points": (6, "+.2f", "f1_points_gained", 1),
    "FLOPs a point": (13, "+.1%", "extra_flops_per_f1_point", 1),
}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print what a round costs, the ratios to FedAvg and to MF, and the score."""
    header = [f"{name.strip():>{width}s}" for name, (width, *_) in _COLUMNS.items()]
    print("\n" + " ".join([f"{'a round':10s}", *header]))
    for row in rows:
        cells = [
            format("" if row[field] is None else format(row[field] / unit, form), f">{width}s")
            for width, form, field, unit in _COLUMNS.values()
        ]
        print(" ".join([f"{row['configuration']:10s}", *cells]))


def main() -> None:
    """Measure, print JSON rows and a table, append rows to a file."""
    options = parser(__doc__)
    options.add_argument("--workload", choices=(*STUDIES, "resnet18"), default="twin")
    options.add_argument("--rounds", type=int, default=0, help="0: 10 of a study, 4 of resnet18, 2 with --quick")
    options.add_argument("--clients", type=int, default=16, help="of resnet18; studies have one a country")
    options.add_argument("--steps", type=int, default=4, help="local steps of resnet18")
    args = options.parse_args()
    if args.rounds < 0 or args.clients < 2 or args.steps < 1:
        options.error("--rounds must not be negative, --clients at least 2, --steps at least 1")
    use_devices(args.devices)
    account = host()
    scored = args.workload in STUDIES
    rounds = args.rounds or (2 if args.quick else 10 if scored else 4)
    made = studied(args.workload, rounds, args.quick) if scored else resnet18(rounds, args.clients, args.steps)
    rows = measure(*made, scored)
    for row in rows:
        emit({**row, "workload": args.workload, "quick": args.quick, **account}, args.output)
    print_table(rows)


if __name__ == "__main__":
    main()
