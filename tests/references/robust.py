"""References of other reductions of the changes of a cohort: median, trimmed mean, Krum, clipped norms."""

from __future__ import annotations

import math

import numpy as np
from references.averaging import mean, moved, square
from references.problem import Result
from references.server import local_changes


def _reduced(problem, cohorts, rate, reduce) -> Result:
    """Run FedAvg with `reduce({i: change}) -> {name: change}` in place of the weighted mean."""
    result, params = Result(), problem.initial
    for cohort in cohorts:
        params = moved(params, reduce(local_changes(problem, cohort, params, rate)))
        result.params.append(params)
    return result


def stacked(changes):
    """Return {name: [holders, ...]} in ascending order of the clients."""
    names = sorted({name for change in changes.values() for name in change})
    return {name: np.stack([changes[i][name] for i in sorted(changes) if name in changes[i]]) for name in names}


def median(problem, cohorts, rate, weights="samples") -> Result:
    """Yin et al., ICML 2018: median by coordinate over the holders, unweighted (of even numbers the middle's mean)."""
    return _reduced(problem, cohorts, rate, lambda c: {n: np.median(v, axis=0) for n, v in stacked(c).items()})


def trimmed_mean(problem, cohorts, rate, weights="samples", fraction=0.2) -> Result:
    """Yin et al., ICML 2018: drop floor(fraction * n) of n holders from each side, by coordinate; unweighted mean."""

    def trim(values):
        drop = math.floor(fraction * len(values) + 1e-9)
        return np.sort(values, axis=0)[drop : len(values) - drop].mean(axis=0)

    return _reduced(problem, cohorts, rate, lambda c: {n: trim(v) for n, v in stacked(c).items()})


def blocks(problem):
    """Return the names grouped by the set of modalities whose clients hold them."""
    groups = {}
    for name in problem.initial:
        holders = frozenset(c.modality for c in problem.clients if name in c.names)
        groups.setdefault(holders, []).append(name)
    return list(groups.values())


def krum_scores(vectors, f):
    """Return for each of [n, d] the sum of its n - f - 2 (at least one) smallest squared distances to the others."""
    n = len(vectors)
    distances = ((vectors[:, None] - vectors[None]) ** 2).sum(axis=-1)
    others = [np.sort(np.delete(distances[j], j)) for j in range(n)]
    return np.array([o[: max(1, n - f - 2)].sum() for o in others])


def multi_krum(problem, cohorts, rate, weights="samples", f=0, m=1) -> Result:
    """Blanchard et al., NeurIPS 2017: by block, the unweighted mean of the (at most n) m clients of lowest score.

    Of equal scores the lower client number comes first. With n - f - 2 <= 1 the two clients nearest to each other
    ALWAYS have equal scores: compare implementations where a block has at least f + 4 holders.
    """
    groups = blocks(problem)

    def reduce(changes):
        reduced = {}
        for names in groups:
            holders = [i for i in sorted(changes) if names[0] in changes[i]]
            if not holders:
                continue
            vectors = np.stack([np.concatenate([changes[i][k].ravel() for k in names]) for i in holders])
            chosen = np.argsort(krum_scores(vectors, f), kind="stable")[:m]
            reduced |= {k: np.mean([changes[holders[j]][k] for j in chosen], axis=0) for k in names}
        return reduced

    return _reduced(problem, cohorts, rate, reduce)


def krum(problem, cohorts, rate, weights="samples", f=0) -> Result:
    """Blanchard et al., NeurIPS 2017: by block, the change of the client of lowest score."""
    return multi_krum(problem, cohorts, rate, weights, f, m=1)


def norm_clip(problem, cohorts, rate, weights="samples", c=1.0) -> Result:
    """Scale the whole change of a client (all its names together) to norm c at most; then the weighted mean."""

    def clipped(change):
        scale = min(1.0, c / max(np.sqrt(square(change)), 1e-300))
        return {name: scale * value for name, value in change.items()}

    return _reduced(problem, cohorts, rate, lambda cs: mean(problem, {i: clipped(v) for i, v in cs.items()}, weights))
