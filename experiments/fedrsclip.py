"""What FedRSCLIP's prompts and constraints bring: the demo for every method and ablation, over seeds.

Command: python experiments/fedrsclip.py runs/fedrsclip
Time: 14 minutes on one core of a shared Intel Xeon that others used too, JAX 0.10.2
Result: none of the code as it is now; experiments/RESULTS.md compares FedRSCLIP, PromptFL and local prompts
"""

import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mmfl_jax import Study
from mmfl_jax.errors import UserError, told_in_one_line
from mmfl_jax.study import load_study

VARIANTS = {
    "zero-shot": {"method": "clip", "rounds": 0},
    "linear": {"method": "linear"},
    "PromptFL": {"method": "promptfl"},
    "local prompts": {"method": "local-prompts"},
    "FedRSCLIP": {},
    "without PACL": {"pacl_weight": 0.0},
    "without CMFAC": {"cmfac_weight": 0.0},
    "without both": {"pacl_weight": 0.0, "cmfac_weight": 0.0},
}


def studies(seeds: int = 3, base: Study | None = None) -> list[Study]:
    """Return the demo for every variant and seed, or another base study."""
    base = base or load_study(str(Path(__file__).with_name("fedrsclip_demo.py")))
    base = base.replace(evaluate_every=base.training.rounds, checkpoint_every=base.training.rounds)
    return [
        base.replace(name=f"{name.replace(' ', '-')}-seed{seed}", seed=seed, **changes)
        for seed in range(seeds)
        for name, changes in VARIANTS.items()
    ]


def table(output: Path, seeds: int) -> Table:
    """Return mean and deviation over seeds of what the runs in ``output`` scored."""
    head = Table("", "global accuracy", "personal mean", "personal worst", "bytes up", title=f"{seeds} seeds")
    for name in VARIANTS:
        paths = [output / f"{name.replace(' ', '-')}-seed{seed}" / "summary.json" for seed in range(seeds)]
        found = [json.loads(path.read_text()) for path in paths]
        columns = [
            [summary["evaluation"]["rgb"]["accuracy"] for summary in found],
            [summary["personal"]["mean"] for summary in found],
            [summary["personal"]["worst"] for summary in found],
        ]
        sent = found[0]["communication"]["bytes_up_per_client"]
        head.add_row(name, *(f"{np.mean(c):.3f} ±{np.std(c):.3f}" for c in columns), f"{sent:,.0f}")
    return head


if __name__ == "__main__":
    from mmfl_jax.commands import sweep

    with told_in_one_line():
        if len(sys.argv) != 2:
            raise UserError("usage: python experiments/fedrsclip.py OUTPUT")
        output, seeds = Path(sys.argv[1]), 3
        sweep(studies(seeds), output)
        Console().print(table(output, seeds))
