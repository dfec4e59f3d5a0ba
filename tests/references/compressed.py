"""References of compressed changes: signs and top-k with error feedback; what must hold of rounding to int8."""

from __future__ import annotations

import math

import numpy as np
from references.averaging import add, held, mean, minus, moved, zeros
from references.problem import Result
from references.server import local_changes


def sign(x):
    """Return mean|x| * sign(x): the scaled sign of Karimireddy et al., ICML 2019 (sign(0) = 0)."""
    return np.abs(x).mean() * np.sign(x)


def top_k(x, fraction):
    """Return x with all but its ceil(fraction * size) largest magnitudes set to 0 (of equals the first stay)."""
    k = math.ceil(fraction * x.size - 1e-9)
    kept = np.zeros(x.size)
    largest = np.argsort(-np.abs(x).ravel(), kind="stable")[:k]
    kept[largest] = x.ravel()[largest]
    return kept.reshape(x.shape)


def compressed(problem, cohorts, rate, weights, compressor, feedback=True) -> Result:
    """Run FedAvg whose clients send compressor(change + residual), array by array, and keep what was left out."""
    params = problem.initial
    result = Result(memory={i: zeros(held(c, params)) for i, c in enumerate(problem.clients)})
    for cohort in cohorts:
        sent = {}
        for i, change in local_changes(problem, cohort, params, rate).items():
            wanted = add(change, result.memory[i]) if feedback else change
            sent[i] = {name: compressor(value) for name, value in wanted.items()}
            result.memory[i] = minus(wanted, sent[i])
        params = moved(params, mean(problem, sent, weights))
        result.params.append(params)
    return result


def fedavg_sign(problem, cohorts, rate, weights="samples", feedback=True) -> Result:
    """Karimireddy et al., ICML 2019 (EF-signSGD): sign(change + residual) by array; memory is the residual."""
    return compressed(problem, cohorts, rate, weights, sign, feedback)


def fedavg_top_k(problem, cohorts, rate, weights="samples", fraction=0.1, feedback=True) -> Result:
    """Stich et al., NeurIPS 2018: top_k(change + residual) by array; memory is the residual."""
    return compressed(problem, cohorts, rate, weights, lambda x: top_k(x, fraction), feedback)


def int8_scale(x):
    """Return the width of one level: max|x| is level 127."""
    return np.abs(x).max() / 127


def int8_faults(x, sent, tolerance=1e-5):
    """Return what is wrong with `sent` as x rounded at random to 255 levels: [] where it is right.

    Each value is a whole number of levels, at most 127, and one of the two neighbours of x; whole numbers of levels
    (0 and the extremes) are sent exactly.
    """
    scale = int8_scale(x)
    if scale == 0:
        return [] if not np.any(sent) else ["zeros became something"]
    levels, wanted = sent / scale, x / scale
    exactly = np.abs(wanted - np.round(wanted)) < tolerance
    checks = {
        "not a whole number of levels": np.abs(levels - np.round(levels)) > 127 * tolerance,
        "beyond level 127": np.abs(levels) > 127 * (1 + tolerance),
        "further than one level": np.abs(levels - wanted) > 1 + 127 * tolerance,
        "a whole level moved": exactly & (np.abs(levels - wanted) > 0.5),
    }
    return [fault for fault, where in checks.items() if np.any(where)]


def int8_bias(x, sents):
    """Return the largest |mean(sents) - x| in its standard errors, of independent roundings [repeats, ...].

    A level is drawn with variance q (1 - q) for fraction q; 5 is already far out for a few hundred values.
    """
    scale = int8_scale(x)
    q = x / scale - np.floor(x / scale)
    error = np.sqrt(np.maximum(q * (1 - q), 1e-4) / len(sents)) * scale
    return float((np.abs(np.mean(sents, axis=0) - x) / error).max())
