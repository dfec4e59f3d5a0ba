"""Write tiny BigEarthNet trees in the layouts of v1 and v2, for tests."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from mmfl_jax.archives.bigearthnet.nomenclature import BAND_SIZES, S1_CHANNELS, S2_BANDS_12

V1_PATCHES = (
    ("S2A_MSIL2A_20170613T101031_87_48", "33UUP", ("Non-irrigated arable land", "Mixed forest")),
    ("S2B_MSIL2A_20180204T94161_57_38", "35VPK", ("Coniferous forest", "Airports")),
    ("S2A_MSIL2A_20170924T113321_4_55", "29UPU", ("Pastures", "Estuaries")),
)
V2_PATCHES = (
    ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57", "Austria", "train", ("Arable land", "Pastures")),
    ("S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_27_55", "Austria", "validation", ("Inland waters",)),
    ("S2B_MSIL2A_20180204T094161_N9999_R036_T35VPK_57_38", "Finland", "test", ("Coniferous forest",)),
)


def write_band(path: Path, size: int, dtype: str, level: float) -> None:
    """Write one band of ``size`` x ``size`` pixels that rise from ``level`` along rows and columns."""
    rows, columns = np.mgrid[:size, :size] * (120 / size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", height=size, width=size, count=1, dtype=dtype) as file:
            file.write((level + (rows + 2 * columns) / 100).astype(dtype), 1)


def write_patch(folder: Path, number: int = 0) -> None:
    """Write the bands of one patch into ``folder``, whose name says the sensor."""
    for place, band in enumerate(S1_CHANNELS if folder.name.startswith("S1") else S2_BANDS_12):
        radar = band in S1_CHANNELS
        level = -12.0 - 7 * place - number if radar else 1000 * (number + 1) + 10 * place
        write_band(folder / f"{folder.name}_{band}.tif", BAND_SIZES[band], "float32" if radar else "uint16", level)


def s1_name(s2_name: str, tile: str) -> str:
    """Return the name of the Sentinel-1 patch at the place of a Sentinel-2 patch."""
    column, row = s2_name.split("_")[-2:]
    return f"S1A_IW_GRDH_1SDV_{s2_name.split('_')[2][:8]}T165043_{tile}_{column}_{row}"


def write_v1(directory: Path, patches: tuple = V1_PATCHES) -> Path:
    """Write a tree in v1's layout: pairs of patches with their json files."""
    for number, (name, tile, labels) in enumerate(patches):
        radar = s1_name(name, tile)
        records = {
            directory / "BigEarthNet-v1.0" / name: {"tile_source": f"S2A_MSIL1C_20170613T101031_N0205_R022_T{tile}_X"},
            directory / "BigEarthNet-S1-v1.0" / radar: {"corresponding_s2_patch": name},
        }
        for folder, record in records.items():
            write_patch(folder, number)
            path = folder / f"{folder.name}_labels_metadata.json"
            path.write_text(json.dumps({"labels": list(labels), **record}))
    return directory


def write_v2(directory: Path, patches: tuple = V2_PATCHES) -> Path:
    """Write a tree in v2's layout: pairs of patches by scene, and ``metadata.parquet``."""
    rows = []
    for number, (name, country, split, labels) in enumerate(patches):
        radar = s1_name(name, name.split("_")[5][1:])
        for root, patch, tokens in (("BigEarthNet-S2", name, 2), ("BigEarthNet-S1", radar, 3)):
            write_patch(directory / root / patch.rsplit("_", tokens)[0] / patch, number)
        v1_name = "_".join(name.split("_")[:3] + name.split("_")[6:])
        rows.append(
            {
                "patch_id": name,
                "labels": list(labels),
                "split": split,
                "country": country,
                "s1_name": radar,
                "s2v1_name": v1_name,
                "contains_seasonal_snow": False,
                "contains_cloud_or_shadow": False,
            }
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), directory / "metadata.parquet")
    return directory
