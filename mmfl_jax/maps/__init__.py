"""Maps: scenes of any size in overlapping windows, to GeoTIFFs with colours and names, pictures and catalogue items.

What draws maps knows no model: whatever gives probabilities for windows (:class:`Predictor`) can be mapped. A run's
model stands in ``model``.
"""

from typing import TYPE_CHECKING

from mmfl_jax.lazy import lazy

if TYPE_CHECKING:
    from mmfl_jax.maps.model import classifies_patches, predict_patches, predictor_of
    from mmfl_jax.maps.options import MapOptions
    from mmfl_jax.maps.predict import predict_maps
    from mmfl_jax.maps.predictor import Predictor
    from mmfl_jax.maps.scenes import check_folders
    from mmfl_jax.maps.tables import write_table

__all__ = [
    "MapOptions",
    "Predictor",
    "check_folders",
    "classifies_patches",
    "predict_maps",
    "predict_patches",
    "predictor_of",
    "write_table",
]

__getattr__ = lazy(
    __name__,
    {
        "MapOptions": "options",
        "Predictor": "predictor",
        "check_folders": "scenes",
        "predict_maps": "predict",
        **dict.fromkeys(("classifies_patches", "predict_patches", "predictor_of"), "model"),
        "write_table": "tables",
    },
)
