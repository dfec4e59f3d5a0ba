"""The twin's constants: what land looks like to a radar and to a camera. All tuning is done here.

The spectra and backscatter levels are stylised, in the order of magnitude of Sentinel-2 surface reflectance and
Sentinel-1 backscatter in C band. They are chosen so that each sensor confuses what it confuses in nature: the camera
takes forest types, built-up and bare ground, still and moving water for each other; the radar takes smooth fields,
sand and water, or meadows and crops.
"""

from __future__ import annotations

import numpy as np

# fmt: off
ENDMEMBERS = np.array([
    # B01   B02   B03   B04   B05   B06   B07   B08   B8A   B09   B11   B12
    (260,  310,  620,  360, 1050, 2900, 3600, 3800, 3950, 4000, 2000,  980),  # crop
    (280,  340,  640,  430, 1100, 2600, 3150, 3300, 3450, 3500, 2100, 1080),  # grass
    (190,  200,  360,  230,  640, 1850, 2250, 2400, 2500, 2550, 1100,  520),  # conifer
    (200,  220,  420,  250,  740, 2200, 2700, 2850, 2950, 3000, 1380,  630),  # broadleaf
    (420,  520,  780,  980, 1350, 1800, 2050, 2250, 2450, 2500, 2850, 1900),  # dry
    (600,  750, 1050, 1350, 1600, 1800, 1950, 2100, 2250, 2300, 2850, 2350),  # soil
    (1000, 1250, 1700, 2050, 2250, 2400, 2500, 2600, 2700, 2700, 3300, 2800),  # sand
    (900, 1100, 1300, 1400, 1600, 1850, 2000, 2150, 2200, 2200, 2250, 1900),  # built
    (330,  300,  260,  180,  180,  380,  470,  470,  410,  410,  310,  240),  # water
], np.float32)
"""[9 materials, 12 bands]: reflectance x 10,000, before the calibration below takes some 300 off the infrared."""

FRACTIONS = np.array([
    # crop grass conif broad dry  soil  sand built water
    (.05, .17, .00, .08, .05, .18, .00, .47, .00),  # Urban fabric
    (.05, .12, .00, .04, .05, .20, .00, .54, .00),  # Industrial or commercial units
    (.60, .03, .00, .00, .10, .27, .00, .00, .00),  # Arable land
    (.20, .10, .00, .30, .10, .30, .00, .00, .00),  # Permanent crops
    (.12, .75, .00, .00, .10, .03, .00, .00, .00),  # Pastures
    (.40, .15, .00, .12, .08, .20, .00, .05, .00),  # Complex cultivation patterns
    (.30, .15, .05, .35, .08, .07, .00, .00, .00),  # Agriculture with natural vegetation
    (.10, .15, .00, .25, .40, .10, .00, .00, .00),  # Agro-forestry areas
    (.00, .03, .05, .90, .02, .00, .00, .00, .00),  # Broad-leaved forest
    (.00, .03, .90, .05, .02, .00, .00, .00, .00),  # Coniferous forest
    (.00, .03, .50, .45, .02, .00, .00, .00, .00),  # Mixed forest
    (.00, .35, .00, .00, .40, .25, .00, .00, .00),  # Natural grassland and sparsely vegetated areas
    (.00, .20, .25, .05, .42, .08, .00, .00, .00),  # Moors, heathland and sclerophyllous vegetation
    (.00, .20, .25, .35, .15, .05, .00, .00, .00),  # Transitional woodland, shrub
    (.00, .00, .00, .00, .05, .10, .80, .00, .05),  # Beaches, dunes, sands
    (.00, .40, .08, .00, .32, .00, .00, .00, .20),  # Inland wetlands
    (.00, .20, .00, .00, .20, .20, .05, .00, .35),  # Coastal wetlands
    (.00, .01, .01, .00, .00, .01, .00, .00, .97),  # Inland waters
    (.00, .00, .00, .00, .00, .01, .00, .00, .99),  # Marine waters
], np.float32)
"""[19 classes, 9 materials]: what a class is made of in summer."""

GREENNESS = np.array([(.35, .65, 1.0, .35), (.55, .85, .95, .80), (.35, .70, 1.0, .75)], np.float32)
"""[crop, grass, broadleaf; winter, spring, summer, autumn]: the green share; the rest shows soil, dry, dry."""

OPTICAL_TEXTURE = np.array([
    # grain clumps parcels rows blocks
    (.16, .08, .00, .00, .38),  # Urban fabric
    (.14, .06, .00, .00, .46),  # Industrial or commercial units
    (.03, .05, .32, .05, .00),  # Arable land
    (.05, .04, .10, .30, .00),  # Permanent crops
    (.03, .10, .09, .00, .00),  # Pastures
    (.06, .08, .38, .12, .12),  # Complex cultivation patterns
    (.08, .22, .16, .00, .00),  # Agriculture with natural vegetation
    (.20, .12, .04, .00, .00),  # Agro-forestry areas
    (.09, .08, .00, .00, .00),  # Broad-leaved forest
    (.11, .08, .00, .00, .00),  # Coniferous forest
    (.12, .14, .00, .00, .00),  # Mixed forest
    (.05, .22, .00, .00, .00),  # Natural grassland and sparsely vegetated areas
    (.12, .18, .00, .00, .00),  # Moors, heathland and sclerophyllous vegetation
    (.18, .28, .03, .00, .00),  # Transitional woodland, shrub
    (.03, .10, .00, .05, .00),  # Beaches, dunes, sands
    (.06, .34, .00, .00, .00),  # Inland wetlands
    (.05, .40, .00, .00, .00),  # Coastal wetlands
    (.04, .04, .00, .00, .00),  # Inland waters
    (.04, .03, .00, .03, .00),  # Marine waters
], np.float32)
"""[19 classes, 5 textures]: relative contrast of reflectance."""

BACKSCATTER = np.array([
    # VV     VH    grain clumps parcels rows blocks
    (-6.5, -13.5,  1.6, 0.6, 0.0, 0.0, 2.6),  # Urban fabric: double bounce
    (-3.5, -12.0,  1.8, 0.4, 0.0, 0.0, 4.2),  # Industrial or commercial units: large corner reflectors
    (-12.0, -19.5, 0.3, 0.3, 1.3, 0.1, 0.0),  # Arable land
    (-10.2, -15.8, 0.6, 0.3, 0.4, 0.9, 0.0),  # Permanent crops: volume, rows
    (-12.4, -19.8, 0.3, 0.5, 0.4, 0.0, 0.0),  # Pastures
    (-11.0, -17.8, 0.7, 0.4, 1.6, 0.4, 0.9),  # Complex cultivation patterns
    (-10.6, -16.8, 0.7, 1.2, 0.8, 0.0, 0.0),  # Agriculture with natural vegetation
    (-11.6, -17.4, 1.8, 0.5, 0.1, 0.0, 0.0),  # Agro-forestry areas: single trees
    (-8.4, -12.8,  0.4, 0.3, 0.0, 0.0, 0.0),  # Broad-leaved forest: strong volume
    (-11.0, -17.2, 0.6, 0.4, 0.0, 0.0, 0.0),  # Coniferous forest
    (-9.7, -14.9,  0.9, 0.9, 0.0, 0.0, 0.0),  # Mixed forest
    (-13.0, -21.0, 0.5, 1.0, 0.0, 0.0, 0.0),  # Natural grassland and sparsely vegetated areas
    (-12.2, -18.4, 0.8, 0.9, 0.0, 0.0, 0.0),  # Moors, heathland and sclerophyllous vegetation
    (-11.2, -17.0, 1.2, 1.6, 0.1, 0.0, 0.0),  # Transitional woodland, shrub
    (-17.0, -25.5, 0.3, 0.8, 0.0, 0.2, 0.0),  # Beaches, dunes, sands: smooth and dry
    (-8.6, -18.6,  0.6, 1.9, 0.0, 0.0, 0.0),  # Inland wetlands: flooded stems
    (-14.5, -22.5, 0.5, 2.4, 0.0, 0.0, 0.0),  # Coastal wetlands
    (-20.5, -27.5, 0.4, 0.5, 0.0, 0.0, 0.0),  # Inland waters: a mirror
    (-15.5, -26.5, 0.2, 0.5, 0.0, 1.1, 0.0),  # Marine waters: rough by wind, swell
], np.float32)
"""[19 classes; VV, VH, 5 textures]: dB."""

TEXTURE_SPECTRUM = np.array([
    # B01 B02  B03  B04  B05  B06  B07  B08  B8A  B09  B11  B12
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),  # grain
    (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0),  # clumps
    (.50, .70, .60, 1.2, .50, -.6, -.9, -1., -1., -1., .70, 1.1),  # parcels: bare against green
    (.30, .40, .40, .90, .40, -.5, -.7, -.8, -.8, -.8, .60, .90),  # rows
    (1.2, 1.2, 1.1, 1.1, 1.0, .60, .50, .50, .50, .50, .80, .90),  # blocks: roofs
], np.float32)
"""[5 textures, 12 bands]: how a texture shows in each band."""

COUNTRY_RADIOMETRY = np.array([
    # gain  aerosol tilt  leak  VV dB  VH dB  cross
    (0.84,   10,  -0.10, 0.06,  0.9,   1.2,  0.00),  # Finland: low sun, clean air
    (1.20,   60,   0.16, 0.02, -0.8,  -1.4,  0.10),  # Portugal: dry, bright soil
    (1.08,  110,   0.08, 0.12, -0.3,   0.4,  0.05),  # Serbia
    (0.92,   50,  -0.04, 0.18,  0.4,  -0.6,  0.00),  # Lithuania
    (0.88,   90,  -0.14, 0.02,  1.5,   0.6,  0.12),  # Ireland: moist
    (1.06,   20,   0.02, 0.08, -1.4,  -0.2,  0.06),  # Austria: slopes
    (0.96,  150,  -0.02, 0.14,  0.8,   1.6,  0.00),  # Belgium: hazy air
    (1.16,    0,   0.06, 0.04, -1.9,  -1.0,  0.10),  # Switzerland: high and clear
    (1.00,  120,   0.00, 0.20,  0.2,   1.0,  0.03),  # Luxembourg
    (1.14,   80,   0.18, 0.10, -0.9,  -1.8,  0.08),  # Kosovo
], np.float32)
"""[10 countries; ...]: gain; light added in blue (reflectance x 10,000); gain's rise from blue to infrared; share of
neighbouring bands; offsets of VV and VH by incidence angle; share of VV's deviation that shows in VH."""

AEROSOL_SPECTRUM = np.array([1.2, 1.0, .70, .50, .40, .30, .25, .20, .15, .15, .05, .03], np.float32)
CLOUD_SPECTRUM = np.array([6200, 6300, 6100, 6200, 6300, 6500, 6600, 6700, 6700, 6700, 4700, 3700], np.float32)
# fmt: on

SHIFT = 1.0
"""Strength of COUNTRY_RADIOMETRY: 0 takes the countries' difference in radiometry away."""
CLOUDY_SHARE, HAZY_SHARE = 0.12, 0.30
FRACTION_SPREAD = 0.60
"""Standard deviation of the logarithm of a class's fractions from place to place."""
BRIGHTNESS_SPREAD = 0.16
"""The same of its brightness."""
TEXTURE_SPREAD = 0.20
"""The same of its textures' contrast."""
BACKSCATTER_SPREAD = 0.5
"""dB from place to place, of a class, by moisture, roughness and wind."""
POLARISATION_CORRELATION = 0.6
LOOKS = 4.4
"""Equivalent number of looks of Sentinel-1's ground range product (ESA's product specification)."""
BUMP, BUMP_WIDTH, AREA_SPREAD, SHARPNESS = 3.2, 0.12, 0.5, 7.0
"""Height and width of the rise that gives each class a place of its own, spread of areas, sharpness of borders."""

CALIBRATION: dict[str, tuple[float, float]] = {
    "VV": (1.3805, 3.434),
    "VH": (1.1795, 2.161),
    "B01": (0.6843, -43.528),
    "B02": (0.6843, -43.528),
    "B03": (0.7222, 16.156),
    "B04": (0.7895, -47.143),
    "B05": (0.8360, -30.778),
    "B06": (1.0881, -382.589),
    "B07": (1.1127, -537.255),
    "B08": (1.1060, -541.118),
    "B8A": (1.0327, -423.689),
    "B09": (1.0327, -423.689),
    "B11": (0.9749, -286.547),
    "B12": (0.9346, -196.022),
}
"""Channel to the gain and offset that bring the twin to the real archive's mean and standard deviation, as measured on
4,000 samples of 32 x 32 pixels of seed 0 without them. B01 and B09, whose figures are not known, follow B02 and B8A."""
