"""Constants of the tiles: land cover, the surfaces it is made of, and the landscapes of the countries.

A class is what a map says, a surface is what a sensor sees. They are chosen so that neither sensor is enough:

- The camera takes ploughed fields and roofs for bare ground, green crops and reeds for meadows, cloud shadow for water,
  and sees nothing below a cloud.
- The radar takes calm water, dry sand and smooth soil for each other, reeds over water (double bounce) for houses, tall
  crops for shrub; and speckle blurs every pixel of it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CLASSES = {
    "water": "#419bdf",
    "trees": "#397d49",
    "grass": "#88b053",
    "flooded vegetation": "#7a87c6",
    "crops": "#e49635",
    "shrub and scrub": "#dfc35a",
    "built": "#c4281b",
    "bare": "#a59b8f",
}
"""Class to its colour, both of Dynamic World, which has snow and ice besides."""

SURFACES = ("water", "conifer", "broadleaf", "meadow", "reeds", "soil", "shrub", "roofs", "streets", "yards", "bare")
WATER, CONIFER, BROADLEAF, MEADOW, REEDS, SOIL, SHRUB, ROOFS, STREETS, YARDS, BARE = range(len(SURFACES))
SURFACE_CLASSES = np.array([0, 1, 1, 2, 3, 4, 5, 6, 6, 6, 7], np.uint8)
"""Surface to class; the soil is that of fields, and crops stand on it."""

# fmt: off
FRACTIONS = np.array([
    # crop grass conif broad dry  soil  sand built water
    (.00, .01, .01, .00, .00, .02, .00, .00, .96),  # water
    (.00, .04, .88, .06, .02, .00, .00, .00, .00),  # conifer
    (.00, .06, .04, .88, .02, .00, .00, .00, .00),  # broadleaf
    (.06, .80, .00, .02, .09, .03, .00, .00, .00),  # meadow
    (.04, .46, .02, .05, .20, .00, .00, .00, .23),  # reeds
    (.04, .03, .00, .00, .10, .78, .05, .00, .00),  # soil
    (.02, .28, .14, .18, .28, .10, .00, .00, .00),  # shrub
    (.01, .05, .00, .04, .04, .17, .06, .63, .00),  # roofs
    (.01, .08, .00, .04, .05, .16, .04, .62, .00),  # streets
    (.04, .40, .02, .16, .06, .10, .00, .22, .00),  # yards
    (.00, .04, .00, .00, .12, .44, .34, .06, .00),  # bare
    (.86, .04, .00, .00, .04, .06, .00, .00, .00),  # crop, green
    (.04, .04, .00, .00, .74, .18, .00, .00, .00),  # crop, ripe or stubble
], np.float32)
"""[11 surfaces and two crops, 9 materials of the twin]: what a surface is made of in summer."""

OPTICAL_TEXTURE = np.array([
    # grain clumps
    (.05, .06), (.12, .08), (.12, .08), (.05, .10), (.09, .22), (.05, .06), (.14, .16), (.24, .04), (.12, .04),
    (.26, .06), (.09, .16),
], np.float32)
"""[11 surfaces, 2 textures]: relative contrast of reflectance."""

BACKSCATTER = np.array([
    # VV     VH   grain clumps
    (-20.0, -27.5, 0.3, 0.8),  # water: a mirror; wind roughens it
    (-10.6, -15.6, 0.5, 0.4),  # conifer
    (-9.0,  -13.2, 0.4, 0.3),  # broadleaf: strong volume
    (-13.6, -20.8, 0.3, 0.5),  # meadow
    (-8.4,  -19.4, 0.6, 1.0),  # reeds: flooded stems, double bounce
    (-11.6, -20.6, 0.3, 0.4),  # soil
    (-12.4, -17.4, 0.7, 0.8),  # shrub
    (-3.0,  -11.6, 2.2, 0.4),  # roofs: corner reflectors
    (-7.4,  -17.0, 1.6, 0.4),  # streets, walls beside them
    (-5.6,  -13.4, 2.0, 0.5),  # yards
    (-16.6, -23.6, 0.5, 1.0),  # bare: smooth and dry
], np.float32)
"""[11 surfaces; VV, VH, 2 textures]: dB."""

GREEN_CROP, RIPE_CROP = np.array([0.8, 4.2], np.float32), np.array([0.6, 1.8], np.float32)
"""[VV, VH]: dB that a field gains where crops hide all of its soil."""
BACKSCATTER_SPREAD, FIELD_SPREAD = 0.6, 1.2
"""dB from tile to tile, of a surface, and from field to field, by moisture and roughness."""

CROPS = np.array([
    # green in winter, spring, summer, autumn; ripe in the same
    (.35, .90, .10, .10, .00, .00, .75, .25),  # winter cereals
    (.00, .10, .95, .30, .15, .05, .00, .45),  # maize, sunflower
    (.10, .30, .90, .10, .10, .00, .05, .00),  # beet, potatoes
    (.60, .95, .30, .45, .05, .00, .45, .05),  # rape
    (.10, .25, .35, .20, .50, .35, .50, .60),  # fallow
], np.float32)
"""[5 crops, 8]: the share of the soil that is hidden, by season."""
# fmt: on


class Landscape(NamedTuple):
    """Say what the tiles of a country are like.

    Attributes:
        lake, river, reeds, town, bare, hedges: the chance that a tile has some; hedges are around fields.
        woods, shrub: their share of the land.
        conifer: its share of the woods.
        meadow: its share of the fields.
        relief: how steep hills are.
        parcel: the width of a field, as a share of the tile's.
    """

    lake: float
    river: float
    reeds: float
    woods: float
    conifer: float
    shrub: float
    meadow: float
    town: float
    bare: float
    relief: float
    hedges: float
    parcel: float


# fmt: off
LANDSCAPES = {
    #                        lake river reeds woods conif shrub meadow town bare relief hedges parcel
    "Finland":     Landscape(.55, .20, .50, .50, .85, .12, .30, .30, .20, .3, .0, .17),
    "Portugal":    Landscape(.30, .35, .25, .18, .30, .36, .30, .45, .55, .5, .1, .14),
    "Serbia":      Landscape(.15, .45, .30, .22, .10, .15, .20, .50, .25, .3, .0, .11),
    "Lithuania":   Landscape(.35, .30, .45, .30, .50, .12, .45, .35, .15, .1, .1, .18),
    "Ireland":     Landscape(.35, .30, .55, .10, .50, .15, .85, .35, .20, .3, .9, .12),
    "Austria":     Landscape(.15, .35, .15, .42, .75, .12, .40, .45, .35, 1.0, .1, .10),
    "Belgium":     Landscape(.15, .35, .20, .18, .40, .06, .45, .85, .15, .1, .3, .13),
    "Switzerland": Landscape(.30, .35, .15, .32, .75, .18, .80, .45, .65, 1.5, .1, .10),
    "Luxembourg":  Landscape(.10, .30, .10, .34, .25, .09, .55, .50, .15, .5, .3, .14),
    "Kosovo":      Landscape(.10, .30, .10, .30, .15, .30, .35, .55, .45, .9, .2, .08),
}
# fmt: on

CLOUDY_SHARE = 0.45
"""Tiles with clouds."""
UNLABELLED_SHARE = 0.15
"""Tiles that the map does not reach the edge of."""

STATISTICS = {
    "VV": (-13.23, 6.45),
    "VH": (-20.04, 6.04),
    "B01": (712.1, 1006.9),
    "B02": (743.1, 1018.5),
    "B03": (932.9, 1016.0),
    "B04": (970.1, 1145.0),
    "B05": (1317.8, 1175.3),
    "B06": (2117.4, 1460.6),
    "B07": (2352.5, 1509.0),
    "B08": (2484.2, 1538.4),
    "B8A": (2501.2, 1469.3),
    "B09": (2520.4, 1487.9),
    "B11": (1886.7, 1125.2),
    "B12": (1288.2, 894.4),
}
"""Channel to mean and standard deviation, as measured on 2,000 tiles of 64 x 64 pixels of seed 0."""
