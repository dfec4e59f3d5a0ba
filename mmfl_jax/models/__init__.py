"""Models: encoders, fusion, the multi-modal model, its variables and their scopes."""

from typing import TYPE_CHECKING

from mmfl_jax.lazy import lazy

if TYPE_CHECKING:
    from mmfl_jax.models.multimodal import ModelDesign, MultiModalModel, Output
    from mmfl_jax.models.normalization import Normalization
    from mmfl_jax.models.segmentation import SegmentationModel
    from mmfl_jax.models.variables import Template, Variables, drawn, frozen_values, values, variable_shapes

__all__ = [
    "ModelDesign",
    "MultiModalModel",
    "Normalization",
    "Output",
    "SegmentationModel",
    "Template",
    "Variables",
    "drawn",
    "frozen_values",
    "values",
    "variable_shapes",
]

__getattr__ = lazy(
    __name__,
    {
        **dict.fromkeys(("ModelDesign", "MultiModalModel", "Output"), "multimodal"),
        **dict.fromkeys(("Template", "Variables", "drawn", "frozen_values", "values", "variable_shapes"), "variables"),
        "Normalization": "normalization",
        "SegmentationModel": "segmentation",
    },
)
