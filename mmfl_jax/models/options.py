"""Options of the multi-modal model: encoders, fusion, normalisation and whitening."""

from __future__ import annotations

from typing import Literal

from mmfl_jax.options import Count, Positive, Share, options

Fusion = Literal["mean", "sum", "max", "concat"]


@options
class ModelOptions:
    """Model."""

    encoder: Literal["auto", "resnet8", "resnet18", "resnet50", "mlp", "conv1d"] = "auto"
    """Encoder of a modality; auto: resnet8 for images, mlp for series and vectors."""
    width: Count = 0
    """Width of the encoder's first stage or hidden layers; 0 for its own."""
    fusion: Fusion = "mean"
    """Fusion of the features present; concat has zeros for what is missing."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation where there is no whitening."""
    whitening: Literal["cholesky", "zca", "newton_schulz"] = "cholesky"
    """FW's whitening matrix."""
    whitening_where: Literal["stem", "stem+stage1", "all"] = "stem+stage1"
    """Where FW whitens."""
    whitening_group: Positive = 4
    """Channels that are whitened together."""
    whitening_epsilon: Share = 1e-3
    """Shrinkage of the covariance towards the identity."""
    whitening_moments: Literal["batch", "pooled"] = "batch"
    """Moments that whiten in training: the batch's, or pooled (the server's, followed by the client)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the model."""
