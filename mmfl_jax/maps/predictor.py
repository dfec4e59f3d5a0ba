"""What maps need of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from mmfl_jax.archives.base import ModalitySpec


class Predictor(Protocol):
    """Give probabilities for windows of images.

    Attributes:
        modalities: name to specification of what the model has learned from; scenes are read with these channels.
        class_names: in the order of the probabilities.
        class_colors: ``#rrggbb`` in that order; None for colours that differ.
        tile: side of the training tiles in pixels, the default side of windows.
    """

    @property
    def modalities(self) -> Mapping[str, ModalitySpec]: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def class_colors(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def tile(self) -> int: ...  # noqa: D102

    def probabilities(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the probabilities of the classes by pixel.

        Args:
            inputs: raw images, float32 [n, height, width, channels] by modality, NaN for a missing value; at least one
                modality, and only those that some pixel of each window has a value of. All calls for a scene have
                few different n, and one height and width.

        Returns:
            float32 [n, height, width, classes].
        """
        ...
