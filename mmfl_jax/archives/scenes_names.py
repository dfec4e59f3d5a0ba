"""Names of scene classes as words, and the published archives whose names they are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Say what a published archive of scenes holds: its name, its classes as words, and its number of images."""

    name: str
    classes: frozenset[str]
    images: int


def _names(text: str) -> frozenset[str]:
    return frozenset(" ".join(name.split()) for name in text.split(","))


_NWPU = _names(
    """airplane, airport, baseball diamond, basketball court, beach, bridge, chaparral, church, circular farmland,
    cloud, commercial area, dense residential, desert, forest, freeway, golf course, ground track field, harbor,
    industrial area, intersection, island, lake, meadow, medium residential, mobile home park, mountain, overpass,
    palace, parking lot, railway, railway station, rectangular farmland, river, roundabout, runway, sea ice, ship,
    snowberg, sparse residential, stadium, storage tank, tennis court, terrace, thermal power station, wetland"""
)
_UC_MERCED = _names(
    """agricultural, airplane, baseball diamond, beach, buildings, chaparral, dense residential, forest, freeway,
    golf course, harbor, intersection, medium residential, mobile home park, overpass, parking lot, river, runway,
    sparse residential, storage tanks, tennis court"""
)
# Optimal-31 has classes of NWPU-RESISC45 alone: all but these.
_NOT_OPTIMAL = _names(
    """cloud, palace, railway station, river, sea ice, ship, snowberg, sparse residential, stadium, storage tank,
    tennis court, terrace, thermal power station, wetland"""
)

PUBLISHED = (
    Published("Optimal-31", _NWPU - _NOT_OPTIMAL, 31 * 60),
    Published("UC Merced", _UC_MERCED, 21 * 100),
    Published("NWPU-RESISC45", _NWPU, 45 * 700),
)
"""The archives of Fed-RSIC (Lin et al., 2025): Wang et al. (TGRS 2019), Yang and Newsam (2010), Cheng et al. (2017)."""

_FUSED = {name.replace(" ", ""): name for archive in PUBLISHED for name in archive.classes}


def spaced(folder: str) -> str:
    """Return a folder's name as words: ``baseball diamond`` of baseball_diamond, BaseballDiamond, baseballdiamond.

    Words without a mark between them are known by the published archives' names alone.
    """
    fused = re.sub(r"[\W_]+", "", folder).lower()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\W_]+", " ", folder).lower()
    return _FUSED.get(fused) or " ".join(words.split()) or folder


def recognise(classes: Iterable[str]) -> Published | None:
    """Return the published archive whose classes these are: the one that shares most, where it is half of all."""
    found = set(classes)
    overlap = lambda archive: len(found & archive.classes) / len(found | archive.classes)
    best = max(PUBLISHED, key=overlap)
    return best if overlap(best) >= 0.5 else None
