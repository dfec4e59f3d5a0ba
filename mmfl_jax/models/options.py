"""Options of the multi-modal model: encoders, fusion, normalisation and whitening."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from mmfl_jax.errors import UserError
from mmfl_jax.options import Count, Positive, Share, options

Fusion = Literal["mean", "sum", "max", "concat"]

ENCODERS = ["auto", "resnet8", "resnet18", "resnet50", "mlp", "conv1d"]
"""Names of encoders; :func:`mmfl_jax.models.encoders.register_encoder` adds to them."""


def encoder_names(reference: str) -> dict[str, str]:
    """Return the encoder of each modality that a reference such as ``s1=resnet8,s2=resnet18`` names; "" for all others.

    Raises:
      UserError: for an unknown encoder, or a modality twice.
    """
    found: dict[str, str] = {}
    for part in reference.split(","):
        modality, _, name = part.strip().rpartition("=")
        if name not in ENCODERS:
            where = f" {reference!r}:" if name != reference else ""
            raise UserError(f"--encoder{where} {name!r} is unknown; one of {', '.join(ENCODERS)}")
        if modality in found:
            raise UserError(f"--encoder {reference!r} names {modality or 'an encoder for all'} twice")
        found[modality] = name
    return found


def _encoder(reference: str) -> str:
    encoder_names(reference)
    return reference


@options
class ModelOptions:
    """Model."""

    encoder: Annotated[str, AfterValidator(_encoder)] = "auto"
    """Encoder: auto (resnet8 for images, else mlp), resnet8, resnet18, resnet50, mlp, conv1d; or s1=resnet8,s2=..."""
    decoder: Literal["unet", "fpn"] = "unet"
    """Decoder of a modality, for labels by pixel."""
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
