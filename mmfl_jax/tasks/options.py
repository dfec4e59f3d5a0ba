"""Options of a task's loss."""

from __future__ import annotations

from typing import Literal

from mmfl_jax.options import Weight, options


@options
class TaskOptions:
    """Loss of labels by pixel."""

    class_weights: Literal["none", "root", "balanced"] = "none"
    """Weight of a pixel in the loss: balanced by how rare its class is among all pixels, or by the root of that."""
    dice_weight: Weight = 0.0
    """Weight of the Dice loss beside cross-entropy."""
