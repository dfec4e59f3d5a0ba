"""Models: encoders, fusion, the multi-modal model, its variables and their scopes."""

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
