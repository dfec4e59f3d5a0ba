"""The two bounds beside a run: all samples in one place, and each client alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfl_jax.runs.directory import CHECKPOINTS, SUMMARY, write_whole
from mmfl_jax.runs.loop import run

if TYPE_CHECKING:
    from mmfl_jax.simulation import Simulation

#: The algorithms that bound all others, and the folder of their runs in the directory of the run.
BOUNDS, FOLDER = ("centralized", "local"), "bounds"
# A bound has everybody, always, and nobody who is hostile.
_PLAIN = {"participation": "all", "dropout": 0.0, "stragglers": 0.0, "speed": "", "attack": "none", "private": ""}


def run_bounds(simulation: Simulation, run_dir: Path, *, quiet: bool = True) -> dict[str, Any]:
    """Run a finished run's study under both bounds, for as many rounds, and add their scores to its summary.

    Args:
        simulation: of the run; its federation is the bounds' too.
        run_dir: of the run; each bound has a run directory in its folder ``bounds``, and goes on where it was stopped.
        quiet: show no progress.

    Returns:
        The summary, with the bounds' ``evaluation`` by name under ``bounds``.
    """
    from mmfl_jax.simulation import Simulation

    # A federation of flipped labels is the attack's own.
    federation = None if simulation.study.attack == "label_flip" else simulation.federation
    bounds = {}
    for name in BOUNDS:
        own = run_dir / FOLDER / name
        study = simulation.study.replace(algorithm=name, name=name, **_PLAIN)
        if not (own / SUMMARY).exists():
            begun = any((own / CHECKPOINTS).glob("[0-9]*"))
            run(Simulation(study, federation), own, resume=begun, quiet=quiet, report=False)
        bounds[name] = json.loads((own / SUMMARY).read_text())["evaluation"]
    summary = json.loads((run_dir / SUMMARY).read_text()) | {"bounds": bounds}
    write_whole(run_dir / SUMMARY, json.dumps(summary, indent=2))
    return summary
