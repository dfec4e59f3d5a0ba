"""mmfl_jax: multi-modal federated learning on satellite images, a whole round in one jitted function."""

from typing import TYPE_CHECKING

from mmfl_jax.lazy import lazy

if TYPE_CHECKING:
    from mmfl_jax import algorithms, archives, models, ops, report
    from mmfl_jax.errors import UserError
    from mmfl_jax.federation import Federation
    from mmfl_jax.simulation import Simulation
    from mmfl_jax.study import Study

__version__ = "0.1.0"
__all__ = ["Federation", "Simulation", "Study", "UserError", "algorithms", "archives", "models", "ops", "report"]

__getattr__ = lazy(
    __name__,
    {
        "Federation": "federation",
        "Simulation": "simulation",
        "Study": "study",
        "UserError": "errors",
        **dict.fromkeys(("algorithms", "archives", "models", "ops", "report"), ""),
    },
)
