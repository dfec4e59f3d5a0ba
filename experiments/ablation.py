"""What each module brings on the twin: unified FedAvg, MF, MF+FW, MF+MIM and all three, over seeds.

Command: python experiments/ablation.py runs/ablation
Result: none of the quickstart as it is now; experiments/results.py measures the same methods with more seeds, paired
"""

import sys
from pathlib import Path

from mmfl_jax import Study
from mmfl_jax.study import load_study

METHODS = ("unified", "mf", "mf+fw", "mf+mim", "mf+fw+mim")


def studies(seeds: int = 3) -> list[Study]:
    """Return the quickstart study for every method and seed."""
    base = load_study(str(Path(__file__).with_name("quickstart.py"))).replace(checkpoint_every=20)
    return [
        base.replace(name=f"{method}-seed{seed}", method=method, seed=seed)
        for seed in range(seeds)
        for method in METHODS
    ]


if __name__ == "__main__":
    from mmfl_jax.commands import sweep

    sweep(studies(), Path(sys.argv[1]))
