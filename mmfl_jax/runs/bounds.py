"""The two bounds beside a run: all samples pooled, and each client alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmfl_jax.lock import locked
from mmfl_jax.rounds import Rounds
from mmfl_jax.runs.directory import RunDirectory, begun
from mmfl_jax.runs.listeners import Listener
from mmfl_jax.runs.loop import run
from mmfl_jax.runs.schema import BOUNDS, BOUNDS_FOLDER, read_summary

# A bound has everybody, always, and nobody who is hostile.
_PLAIN = {
    "participation": "all",
    "dropout": 0.0,
    "stragglers": 0.0,
    "speed": "",
    "attack": "none",
    "private": "",
    "servers": "",
    "chunk_size": 0,  # may be more than a bound has clients
}


def run_bounds(
    simulation: Rounds, run_dir: Path, listeners: Callable[[], Sequence[Listener]] = tuple
) -> dict[str, Any]:
    """Run a finished run's study under both bounds, for as many rounds, and add their scores to its summary.

    Args:
        simulation: of the run; its federation is the bounds' too.
        run_dir: of the run; each bound has a run directory in its folder ``bounds``, and goes on where it was stopped.
        listeners: makes what hears of a bound's rounds.

    Returns:
        The summary, with the bounds' ``evaluation`` by name under ``bounds``.
    """
    # A federation of flipped labels is the attack's own.
    federation = None if simulation.study.federation.attack == "label_flip" else simulation.federation
    bounds = {}
    for name in BOUNDS:
        own = run_dir / BOUNDS_FOLDER / name
        study = simulation.study.replace(algorithm=name, name=name, **_PLAIN)
        if read_summary(own).get("rounds") != study.training.rounds:
            run(Rounds(study, federation), own, resume=begun(own), listeners=listeners())
        bounds[name] = read_summary(own)["evaluation"]
    with locked(run_dir):
        summary = read_summary(run_dir) | {"bounds": bounds}
        RunDirectory(run_dir).summary(summary)
    return summary
