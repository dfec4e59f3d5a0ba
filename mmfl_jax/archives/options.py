"""Options of archives: which samples are read, and how."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator

from mmfl_jax.options import INT32, Count, Seed, Wanted, options

SMALLEST_IMAGE = 8


def _image_size(pixels: int) -> int:
    if 0 < pixels < SMALLEST_IMAGE:
        raise ValueError(pixels)
    return pixels


ImageSize = Annotated[
    Count,
    AfterValidator(_image_size),
    Wanted(f"0 (their own size), or a whole number from {SMALLEST_IMAGE} to {INT32}"),
]
Bands = Literal[10, 12]
Resampling = Literal["bilinear", "nearest"]


@options
class DataOptions:
    """Data."""

    archive: str = "twin"
    """Archive: twin, twintiles, twinscenes, bigearthnet:DIR, scenes:DIR, tiles:DIR, dynamicworld:DIR,
    sen1floods11:DIR, arrays:FILE.npz or tfds:NAME@DIR."""
    modalities: str = ""
    """Modalities to use, such as s1,s2; empty for all of the archive."""
    image_size: ImageSize = 0
    """Bring images to this many pixels a side (tiles with labels by pixel: cut into blocks); 0 keeps their own size."""
    samples: Count = 0
    """Samples to make (twin) or at most to take; 0 for the archive's default or all."""
    bands: Bands = 10
    """Sentinel-2 bands: 10, or 12 with the 60 m bands."""
    resampling: Resampling = "bilinear"
    """How 20 m and 60 m bands are brought to 10 m."""
    data_seed: Seed = -1
    """Seed of what owners have: drawn samples, split, partition, modalities, wrong labels, speeds; -1 for --seed."""
