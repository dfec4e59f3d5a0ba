"""Runs: the loop, its directory (written and read here), checkpoints, and sweeps of many runs."""

import importlib
from typing import TYPE_CHECKING, Any

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

_HOMES = {
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
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: what only reads runs need not wait for JAX.
    if name in _HOMES:
        return getattr(importlib.import_module(f"mmfl_jax.runs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'mmfl_jax.runs' has no attribute {name!r}")
