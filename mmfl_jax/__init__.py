"""mmfl_jax: multi-modal federated learning on satellite images, a whole round in one jitted function."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfl_jax import algorithms, archives, models, ops, report
    from mmfl_jax.errors import UserError
    from mmfl_jax.federation import Federation
    from mmfl_jax.simulation import Simulation
    from mmfl_jax.study import Study

__version__ = "0.1.0"
__all__ = ["Federation", "Simulation", "Study", "UserError", "algorithms", "archives", "models", "ops", "report"]

_HOMES = {
    "Federation": "mmfl_jax.federation",
    "Simulation": "mmfl_jax.simulation",
    "Study": "mmfl_jax.study",
    "UserError": "mmfl_jax.errors",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `mmfl-jax list` need not wait for JAX.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"mmfl_jax.{name}")
    raise AttributeError(f"module 'mmfl_jax' has no attribute {name!r}")
