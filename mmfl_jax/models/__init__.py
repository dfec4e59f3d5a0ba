"""Models: encoders, fusion, the multi-modal model, its variables and their scopes."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmfl_jax.models.multimodal import ModelDesign, MultiModalModel, Output
    from mmfl_jax.models.normalization import Normalization
    from mmfl_jax.models.variables import Template, Variables, drawn, frozen_values, values

__all__ = [
    "ModelDesign",
    "MultiModalModel",
    "Normalization",
    "Output",
    "Template",
    "Variables",
    "drawn",
    "frozen_values",
    "values",
]

_HOMES = {
    "ModelDesign": "multimodal",
    "MultiModalModel": "multimodal",
    "Normalization": "normalization",
    "Output": "multimodal",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: options of models are read without JAX.
    if name in __all__:
        return getattr(importlib.import_module(f"mmfl_jax.models.{_HOMES.get(name, 'variables')}"), name)
    raise AttributeError(f"module 'mmfl_jax.models' has no attribute {name!r}")
