"""Write an LMDB as rico-hdl does, from the GeoTIFFs of patches."""

from __future__ import annotations

import warnings
from pathlib import Path

import lmdb
import numpy as np
import rasterio
import safetensors.numpy


def bands_of(folder: Path) -> dict[str, np.ndarray]:
    """Return the bands in a patch's folder as rasterio reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {path.stem.rpartition("_")[2]: rasterio.open(path).read(1) for path in sorted(folder.glob("*.tif"))}


def write_lmdb(folder: Path, patches: dict[str, dict[str, np.ndarray]]) -> Path:
    """Write the bands of patches by name."""
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 26) as database, database.begin(write=True) as transaction:
        for name, bands in patches.items():
            transaction.put(name.encode(), safetensors.numpy.save(bands))
    return folder
