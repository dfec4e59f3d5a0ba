"""Options of maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmfl_jax.options import Count, Wanted, options

UpToHalf = Annotated[float, Field(ge=0, le=0.5), Wanted("a number from 0 to 0.5")]


@options
class MapOptions:
    """Say how scenes are cut and what is written of each."""

    window: Count = 0
    """Side of a window in pixels; 0 for that of the run's tiles."""
    overlap: UpToHalf = 0.25
    """Share of a window's side that it has in common with the next one."""
    batch: Count = 0
    """Windows that the model sees at once; 0 for about half a million pixels."""
    probabilities: bool = False
    """Write the probability of each class too."""
    quicklook: bool = True
    """Draw a picture with legend beside the image."""
    stac: bool = False
    """Write a STAC item of each map."""
    overwrite: bool = False
    """Replace maps that this command wrote before; other files never."""
    format: Literal["parquet", "csv"] = "parquet"
    """Of the table of probabilities, where a run classifies patches."""
