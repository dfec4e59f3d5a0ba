"""Every reference by its name: float64 NumPy, from the equations of the papers, written apart from the package.

A reference is `NAME(problem, cohorts, rate, weights="samples", **options) -> Result`. Means are by name of parameter
over the holders in the cohort, weighted by n_i ("samples") or 1 ("uniform"); what nobody in the cohort holds stays.
"""

from references.compressed import fedavg_sign, fedavg_top_k, int8_bias, int8_faults, int8_scale, sign, top_k
from references.personal import contrast, ditto, fedbn, fedper, fedrep, ifca, moon, spread
from references.robust import blocks, krum, krum_scores, median, multi_krum, norm_clip, trimmed_mean
from references.server import (
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedbuff,
    fedexp,
    fedprox,
    fedyogi,
    mimelite,
)
from references.variance import feddc, feddyn, fednova, normaliser, scaffold, stationary

__all__ = [
    "blocks",
    "contrast",
    "ditto",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavg_sign",
    "fedavg_top_k",
    "fedavgm",
    "fedbn",
    "fedbuff",
    "feddc",
    "feddyn",
    "fedexp",
    "fednova",
    "fedper",
    "fedprox",
    "fedrep",
    "fedyogi",
    "ifca",
    "int8_bias",
    "int8_faults",
    "int8_scale",
    "krum",
    "krum_scores",
    "median",
    "mimelite",
    "moon",
    "multi_krum",
    "norm_clip",
    "normaliser",
    "scaffold",
    "sign",
    "spread",
    "stationary",
    "top_k",
    "trimmed_mean",
]
