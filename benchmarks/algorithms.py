"""Measure what each algorithm's round costs relative to FedAvg's, all in turns in one run.

    python benchmarks/algorithms.py [--models cnn,mlp] [--algorithms fedavg,scaffold,...] [--turns T] [--devices N]
        [--output FILE]

Workloads are those of ``peers.py``: (a) ``cnn`` and (c) ``mlp``, on random samples. A turn runs every algorithm once,
for at least half a second, so that other work on the machine falls on all of them; the ratio is the median over turns
of the time over FedAvg's in the same turn.
"""

from __future__ import annotations

import pathlib
import statistics
import sys
from typing import Any

from common import emit, host, parser, use_devices
from scaling import Compilations, rounds_of

from mmfl_jax import Simulation

sys.path.insert(0, str(pathlib.Path(__file__).parent / "peer_workers"))

MODELS = {"cnn": "a", "mlp": "c"}
ALGORITHMS = (
    "fedavg fedavgm fedadam fedexp fedprox scaffold fednova feddyn feddc mimelite moon ditto ifca fedper median "
    "norm_clip int8 top_k sign secure_sum"
)


def simulation(model: str, algorithm: str) -> Simulation:
    """Return a workload under an algorithm, after its first round."""
    import engine
    import workloads

    work = workloads.workload(MODELS[model])
    make: Any = (lambda held: engine.CNN(work)) if work.model == "cnn" else None
    study = engine.study(work).replace(algorithm=algorithm, weighting="uniform", local_steps=work.steps)
    made = Simulation(study, engine.federation(work, workloads.data(work)), make_model=make)
    made.run_round()
    return made


def main() -> None:
    """Print a row for each algorithm and model."""
    options = parser(__doc__)
    options.add_argument("--models", default="mlp,cnn")
    options.add_argument("--algorithms", default=ALGORITHMS.replace(" ", ","))
    options.add_argument("--turns", type=int, default=7)
    args = options.parse_args()
    use_devices(args.devices)
    heard = Compilations()
    for model in args.models.split(","):
        names = args.algorithms.split(",")
        made: dict[str, Simulation] = {}
        for name in names:
            try:
                made[name] = simulation(model, name)
            except Exception as error:  # MOON needs features, which the small network does not tell
                print(f"{model} {name}: {error}", file=sys.stderr)
        before = heard.count
        turns = [{name: rounds_of(sim, 0.5) for name, sim in made.items()} for _ in range(args.turns)]
        for name, sim in made.items():
            seconds = [turn[name] for turn in turns]
            row = {"benchmark": "algorithms", "model": model, "algorithm": name, "clients": sim.federation.clients}
            row["seconds_per_round"] = round(statistics.median(seconds), 5)
            row["to_fedavg"] = round(statistics.median(t[name] / t[names[0]] for t in turns), 3)
            up, down = sim.attendance.client_bytes(0)
            row |= {"bytes_up": up, "bytes_down": down, "compilations_after_first_round": heard.count - before}
            emit(row | {"turns": args.turns} | host(), args.output)


if __name__ == "__main__":
    main()
