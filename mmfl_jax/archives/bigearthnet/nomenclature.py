"""BigEarthNet's bands, classes, statistics and countries.

Sources: the 43 classes are level 3 of CORINE Land Cover 2018, the 19 classes and the bands are those of
Sumbul et al., "BigEarthNet-MM", IEEE GRSM 2021 (arXiv 2105.07921); means and standard deviations are those
commonly used with the archive; tiles by country were counted in the metadata of v2 (Clasen et al., "reBEN",
arXiv 2407.03653).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mmfl_jax.archives.base import ModalitySpec

S1_CHANNELS = ("VV", "VH")
S2_BANDS_12 = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
S2_BANDS_10 = tuple(band for band in S2_BANDS_12 if band not in ("B01", "B09"))

PATCH_SIZE = 120
"""Pixels of 10 m along a side of a patch."""
BAND_SIZES = {
    band: {"10": PATCH_SIZE, "20": PATCH_SIZE // 2, "60": PATCH_SIZE // 6}[resolution]
    for resolution, bands in {
        "10": ("VV", "VH", "B02", "B03", "B04", "B08"),
        "20": ("B05", "B06", "B07", "B8A", "B11", "B12"),
        "60": ("B01", "B09"),
    }.items()
    for band in bands
}

STATISTICS = {
    "VV": (-12.620, 5.116),
    "VH": (-19.290, 5.464),
    "B02": (429.943, 572.416),
    "B03": (614.217, 582.879),
    "B04": (590.236, 675.887),
    "B05": (950.684, 729.898),
    "B06": (1792.463, 1096.015),
    "B07": (2075.468, 1273.454),
    "B08": (2218.946, 1365.456),
    "B8A": (2266.460, 1356.138),
    "B11": (1594.427, 1079.191),
    "B12": (1009.327, 818.867),
}
"""Mean and standard deviation by channel: dB, reflectance x 10,000. None are published here for B01 and B09."""

CLASSES = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
"""The 19 classes, each with the CORINE classes that it is made of."""
CLASS_NAMES = tuple(CLASSES)
DROPPED = (
    "Road and rail networks and associated land",
    "Port areas",
    "Airports",
    "Mineral extraction sites",
    "Dump sites",
    "Construction sites",
    "Green urban areas",
    "Sport and leisure facilities",
    "Bare rock",
    "Burnt areas",
    "Intertidal flats",
)
"""CORINE classes of v1 that no one of the 19 takes in."""

_DATE, _TILE, _PLACE = r"\d{4}(?:0[1-9]|1[0-2])[0-3]\dT\d+", r"\d{2}[A-Z]{3}", r"\d{1,3}_\d{1,3}"
NAMES = {
    "s1": rf"S1[A-D]_IW_GRDH_1SDV_{_DATE}_{_TILE}_{_PLACE}",
    "s2": rf"S2[A-D]_MSIL2A_{_DATE}_N\d{{4}}_R\d{{3}}_T{_TILE}_{_PLACE}",
    "s2_v1": rf"S2[A-D]_MSIL2A_{_DATE}_{_PLACE}",
}
"""What patches are called; Sentinel-2's otherwise in v1."""

SEASONS = ("winter", "spring", "summer", "autumn")
"""Of December to February, March to May, June to August, September to November."""

_CLASS_OF = {
    **{name: number for number, name in enumerate(CLASS_NAMES)},
    **{corine: number for number, parts in enumerate(CLASSES.values()) for corine in parts},
    **dict.fromkeys(DROPPED, -1),
}

_TILES = {
    "Portugal": "29SNB 29SNC 29SND",
    "Ireland": "29UNB 29UPA 29UPB 29UPU 29UPV",
    "Belgium": "31UER 31UGR 31UGS",
    "Switzerland": "32TMT",
    "Austria": "33TWM 33TWN 33TXN 33UUP 33UWP 33UWQ 33UXP 33UXQ",
    "Serbia": "34TCR 34TCS 34TEN 34TEP 34TEQ 34TFN",
    "Lithuania": "34UDG 34UEG 35ULA 35ULB 35UMA 35UMB 35VLC",
    "Finland": "34VDM 34VDN 34VDR 34VER 34WFS 34WFT 34WFU 34WFV 35VLG 35VLJ 35VNH 35VNJ 35VNK 35VNL 35VPJ 35VPK "
    "35WPN 35WPP 35WPR 36VVQ 36VVR",
}
COUNTRIES = (*_TILES, "Kosovo", "Luxembourg")
_COUNTRY_OF_TILE = {tile: country for country, tiles in _TILES.items() for tile in tiles.split()}


def specify(modality: str, image_size: int, bands: int) -> ModalitySpec:
    """Return the specification of ``s1`` or ``s2`` with the archive's statistics, where all bands have them."""
    optical = S2_BANDS_10 if bands == 10 else S2_BANDS_12
    channels = S1_CHANNELS if modality == "s1" else optical
    shape = (image_size, image_size, len(channels))
    if not set(channels) <= set(STATISTICS):
        return ModalitySpec(shape, channels)
    mean, std = np.array([STATISTICS[channel] for channel in channels], np.float32).T
    return ModalitySpec(shape, channels, mean, std)


def by_size(channels: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """Return the bands of each size, in pixels along a side, largest first."""
    channels = list(channels)
    sizes = sorted({BAND_SIZES[channel] for channel in channels}, reverse=True)
    return {size: tuple(channel for channel in channels if BAND_SIZES[channel] == size) for size in sizes}


def season(date: str) -> str:
    """Return the season of a date written YYYYMMDD (or longer)."""
    return SEASONS[int(date[4:6]) % 12 // 3]


def classes_of(labels: Iterable[str]) -> np.ndarray:
    """Return uint8 [19] with a 1 for each class that labels of either nomenclature (43 or 19) fall in.

    Raises:
        KeyError: a label that neither nomenclature has, as the key.
    """
    present = np.zeros(len(CLASS_NAMES), np.uint8)
    for label in labels:
        if (number := _CLASS_OF[label]) >= 0:
            present[number] = 1
    return present


def country_of_tile(tile: str, column: int, row: int) -> str:
    """Return the country of a patch by its Sentinel-2 tile and its place there, else ``unknown``.

    Args:
        tile: MGRS tile such as ``33UUP``; v2 covers 54, each in one country but for two that a border crosses.
        column, row: the last two numbers of a patch's name. Straight lines fitted to v2's patches stand for
            the two borders: they put 95 % (Kosovo, Serbia) and 99.8 % (Luxembourg, Belgium) on the right side.
    """
    if tile == "34TEN" and 0.2645 * column - 0.1771 * row + 1.447 < 0:
        return "Kosovo"
    if tile == "31UGR" and 2.265 * column + 7.326 * row > 290.8:
        return "Luxembourg"
    return _COUNTRY_OF_TILE.get(tile, "unknown")


def place_of(tile: str, name: str) -> str:
    """Return where a patch lies, the same on all dates: its tile and its place there; its name where no tile is known.

    Args:
        tile: MGRS tile, or nothing.
        name: of the patch, which ends in the column and row.
    """
    return "_".join([tile, *name.split("_")[-2:]]) if tile else name


def tile_of(name: str) -> str:
    """Return the MGRS tile named in a patch's or a product's name, or an empty text."""
    found = re.search(r"_T?(\d{2}[A-Z]{3})(?:_|$)", name)
    return found[1] if found else ""
