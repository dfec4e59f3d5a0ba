"""MF and MF+FW+MIM under every algorithm that averages, between learning alone and all data in one place.

Command: python experiments/algorithms.py twin runs/algorithms-twin
         python experiments/algorithms.py worldcereal_canada.npz runs/algorithms-worldcereal

Every algorithm and method has the same budget: each of three learning rates of the clients once, on a further seed; the
one with the best macro-F1 on validation samples is run with three seeds. All else are the algorithms' defaults.

Time: 30 minutes for WorldCereal's 180 runs on one core of a shared AMD EPYC, 150 minutes for the twin's on one core of
  a busy Intel Xeon; JAX 0.10.2
Result: none of the code as it is now; experiments/RESULTS.md says which algorithm closes the gap
"""

import json
import sys
from pathlib import Path

from mmfl_jax import Study, UserError
from mmfl_jax.commands import sweep
from mmfl_jax.errors import told_in_one_line
from mmfl_jax.study import load_study

METHODS = ("mf", "mf+fw+mim")
ALGORITHMS = (
    *("centralized", "fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedexp", "fedprox", "scaffold"),
    *("fednova", "feddyn", "feddc", "mimelite", "moon", "local"),
)
SEEDS = 3


def twin() -> tuple[Study, Study, tuple[float, ...]]:
    """Return the study of the twin, that of its tuning, and the learning rates to try."""
    base = load_study("quickstart").replace(
        image_size=16,
        samples=2000,
        batch_size=16,
        encoder="resnet8",
        width=8,
        client_optimizer="sgd",
        rounds=50,
        evaluate_every=25,
        checkpoint_every=50,
    )
    return base, base.replace(seed=SEEDS, validation_share=0.2), (0.3, 1.0, 3.0)


def worldcereal(archive: str) -> tuple[Study, Study, tuple[float, ...]]:
    """Return the study of WorldCereal, that of its tuning, and the learning rates to try."""
    base = load_study("worldcereal").replace(
        archive=f"arrays:{archive}",
        server_schedule="constant",
        rounds=60,
        local_steps=0,
        local_epochs=1,
        learning_rate_schedule="cosine",
        evaluate_every=20,
        checkpoint_every=60,
    )
    return base, base.replace(seed=SEEDS, validation_share=0.2), (0.03, 0.1, 0.3)


def macro_f1(run_dir: Path) -> float:
    """Return the mean macro-F1 of a run's validation samples over sets of modalities; -1 of one that failed."""
    if not (run_dir / "summary.json").exists():
        return -1.0
    scores = json.loads((run_dir / "summary.json").read_text())["validation"]
    return sum(s["f1_macro"] for s in scores.values()) / len(scores)


def main(archive: str, output: Path) -> None:
    """Tune every algorithm with every method, then run it with all seeds, and compare."""
    base, tuning, rates = twin() if archive == "twin" else worldcereal(archive)
    trials = {
        (method, algorithm): [
            tuning.replace(
                name=f"{method}-{algorithm}-rate{rate}", method=method, algorithm=algorithm, client_learning_rate=rate
            )
            for rate in rates
        ]
        for method in METHODS
        for algorithm in ALGORITHMS
    }
    try:
        sweep([trial for those in trials.values() for trial in those], output / "tuning")
    except UserError as error:  # a rate that diverges has lost
        if not any((output / "tuning").glob("*/summary.json")):
            raise
        print(error, file=sys.stderr)
    chosen = []
    for (method, algorithm), those in trials.items():
        best = max(those, key=lambda trial: macro_f1(output / "tuning" / trial.name))
        options = {"method": method, "algorithm": algorithm, "client_learning_rate": best.training.client_learning_rate}
        chosen += [base.replace(name=f"{method}-{algorithm}-seed{seed}", seed=seed, **options) for seed in range(SEEDS)]
    sweep(chosen, output / "runs")


if __name__ == "__main__":
    with told_in_one_line():
        if len(sys.argv) != 3:
            raise UserError("usage: python experiments/algorithms.py twin|FILE.npz OUTPUT")
        main(sys.argv[1], Path(sys.argv[2]))
