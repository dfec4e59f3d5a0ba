"""Runs: the loop, its directory (written and read here), checkpoints, and sweeps of many runs."""

from typing import TYPE_CHECKING

from mmfl_jax.lazy import lazy

if TYPE_CHECKING:
    from mmfl_jax.runs.bounds import run_bounds
    from mmfl_jax.runs.checkpoints import saved_rounds
    from mmfl_jax.runs.listeners import Listener
    from mmfl_jax.runs.loop import load, run, versions
    from mmfl_jax.runs.record import RunRecord, read_run
    from mmfl_jax.runs.signals import Stopped
    from mmfl_jax.runs.sweeps import sweep

__all__ = [
    "Listener",
    "RunRecord",
    "Stopped",
    "load",
    "read_run",
    "run",
    "run_bounds",
    "saved_rounds",
    "sweep",
    "versions",
]

__getattr__ = lazy(
    __name__,
    {
        "Listener": "listeners",
        "RunRecord": "record",
        "Stopped": "signals",
        "load": "loop",
        "read_run": "record",
        "run": "loop",
        "run_bounds": "bounds",
        "saved_rounds": "checkpoints",
        "sweep": "sweeps",
        "versions": "loop",
    },
)
