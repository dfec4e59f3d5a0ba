"""Figures of the real archive that the twin is drawn from.

All were computed from the 480,038 rows of ``metadata.parquet`` of BigEarthNet v2 (columns labels, country,
patch_id; the month of a patch stands in its name).
"""

from __future__ import annotations

import numpy as np

COUNTRY_SEASONS = {
    "Finland": (7467, 66298, 30767, 50695),
    "Portugal": (24275, 24590, 16438, 24489),
    "Serbia": (16598, 21183, 13683, 21921),
    "Lithuania": (0, 14257, 8775, 25333),
    "Ireland": (14676, 11876, 15549, 6225),
    "Austria": (5253, 21340, 10372, 6832),
    "Belgium": (1925, 3741, 1939, 3591),
    "Switzerland": (0, 0, 4874, 0),
    "Luxembourg": (0, 1813, 0, 1647),
    "Kosovo": (1616, 0, 0, 0),
}
"""Country to its patches by season: winter, spring, summer, autumn; largest country first."""

COUNTRIES = tuple(COUNTRY_SEASONS)
SEASON_COUNTS = np.array(list(COUNTRY_SEASONS.values()))
COUNTRY_SIZES = SEASON_COUNTS.sum(1)

SPLIT_SHARES = {"train": 0.4955, "validation": 0.2549, "test": 0.2496}

# fmt: off
CLASS_COUNTS = np.array([
    (5112, 7796, 12423, 6748, 3897, 15986, 7218, 2455, 1616, 507),  # Urban fabric
    (1453, 2235, 1818, 1550, 698, 1685, 872, 490, 249, 92),  # Industrial or commercial units
    (24765, 38297, 36100, 31518, 17072, 28476, 5593, 3184, 2387, 633),  # Arable land
    (2, 22466, 1778, 507, 16, 4582, 6, 98, 112, 21),  # Permanent crops
    (221, 13407, 7095, 18671, 34656, 10452, 7375, 1300, 2290, 138),  # Pastures
    (99, 19002, 29827, 23966, 3091, 13909, 6100, 1299, 1706, 599),  # Complex cultivation patterns
    (28165, 16546, 34204, 19330, 5404, 13411, 3264, 444, 1076, 865),  # Land principally occupied by agriculture
    (0, 33181, 0, 0, 0, 0, 0, 0, 0, 0),  # Agro-forestry areas
    (10668, 35630, 43659, 17660, 2741, 16521, 4502, 963, 2415, 1169),  # Broad-leaved forest
    (102271, 8548, 1996, 16141, 7489, 13296, 2414, 1742, 993, 51),  # Coniferous forest
    (95357, 14136, 3831, 23319, 3817, 17553, 3200, 3193, 1289, 85),  # Mixed forest
    (11, 1322, 7634, 213, 716, 1387, 16, 288, 0, 295),  # Natural grassland and sparsely vegetated areas
    (91, 10320, 24, 142, 2572, 224, 444, 77, 0, 0),  # Moors
    (54333, 39343, 25440, 14248, 4620, 1315, 891, 315, 45, 600),  # Transitional woodland
    (9, 764, 30, 236, 277, 0, 0, 0, 0, 0),  # Beaches
    (10954, 102, 1535, 2110, 4843, 897, 403, 69, 6, 0),  # Inland wetlands
    (262, 1043, 0, 0, 92, 0, 0, 0, 0, 0),  # Coastal wetlands
    (43993, 4831, 4786, 5265, 1150, 2102, 342, 584, 136, 23),  # Inland waters
    (37960, 9779, 0, 2638, 11455, 0, 0, 0, 0, 0),  # Marine waters
])
"""[19 classes, 10 countries]: patches with the class."""

_CORRELATIONS = (
    (0.56,),
    (0.25, 0.13),
    (0.27, 0.12, 0.2),
    (0.02, -0.05, 0.14, -0.08),
    (0.34, 0.08, 0.09, 0.22, 0.09),
    (0.23, 0.01, 0.06, 0.19, 0.07, 0.36),
    (-0.32, -0.22, 0.4, -0.02, 0.51, -0.2, -0.37),
    (-0.17, -0.19, -0.16, -0.11, 0.04, 0.1, 0.19, 0.16),
    (-0.18, -0.11, -0.1, -0.19, 0.14, -0.05, 0.09, -0.08, -0.06),
    (-0.07, -0.09, -0.01, -0.14, 0.13, 0.07, 0.21, -0.04, 0.22, 0.54),
    (-0.32, -0.16, -0.45, 0.01, 0.01, -0.23, -0.15, -0.09, 0.21, 0.3, 0.12),
    (0, 0.01, -0.38, 0.13, -0.19, 0, 0.35, -0.45, -0.02, 0.2, -0.1, 0.44),
    (-0.19, -0.12, -0.15, -0.15, 0.05, -0.05, 0.08, -0.02, 0.31, 0.5, 0.35, 0.39, 0.32),
    (0.12, -0.05, -0.21, -0.24, -0.25, -0.14, -0.11, -0.57, -0.35, 0.14, -0.09, 0.21, 0.23, -0.15),
    (-0.13, -0.07, -0.12, 0.22, -0.05, -0.09, -0.06, -0.13, -0.05, 0.26, 0.08, 0.23, 0.45, 0.3, -0.01),
    (0.21, 0.28, 0.06, -0.16, 0.1, 0.04, -0.06, -0.35, -0.2, -0.06, 0.01, 0.06, -0.04, -0.3, 0.47, -0.01),
    (0.09, 0.11, 0.02, 0.13, 0.12, -0.01, 0.1, 0.14, 0.08, 0.23, 0.2, -0.05, 0.01, -0.01, 0.11, 0.1, -0.01),
    (-0.13, -0.05, -0.34, -0.33, -0.48, -0.29, -0.33, -0.37, -0.29, -0.45, -0.47, -0.06, -0.08, -0.43, 0.45, -0.28,
     0.26, -0.45),
)
# fmt: on


def label_correlations() -> np.ndarray:
    """Return the [19, 19] correlations of the normal variables that labels are thresholds of.

    Tetrachoric correlations: for each pair of classes the one at which thresholded normal variables, with each
    country's own class frequencies, give the real number of patches with both; then moved to the nearest positive
    definite matrix by clipping its eigenvalues at 0.02.
    """
    matrix = np.eye(len(CLASS_COUNTS))
    for row, values in enumerate(_CORRELATIONS, start=1):
        matrix[row, :row] = matrix[:row, row] = values
    return matrix
