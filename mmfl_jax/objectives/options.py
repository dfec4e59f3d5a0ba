"""Options of the terms of the local loss."""

from __future__ import annotations

from typing import Literal

from mmfl_jax.options import Count, Positive, Rate, ShareBelowOne, Weight, options

Calibration = Literal["none", "fedlc", "share", "relative"]


@options
class MIMOptions:
    """Mutual information maximization."""

    mim_positives: Literal["prototypes", "pairs", "places"] = "prototypes"
    """Positives: class prototypes of the server, the client's own pairs, or projections of the same sites (places)."""
    mim_level: Literal["sample", "pixel"] = "sample"
    """What is compared, where labels are by pixel: whole tiles, or pixels of the coarsest feature maps."""
    mim_weight: Weight = 0.1
    """Weight of MIM in the local loss."""
    mim_warmup: Count = 0
    """Rounds in which the weight of MIM rises from 0."""
    mim_momentum: ShareBelowOne = 0.0
    """Momentum of what the server keeps for MIM: share of an old value that stays when a round updates it."""
    mim_temperature: Rate = 0.1
    """Temperature of InfoNCE."""
    mim_size: Positive = 64
    """Length of a projection."""
