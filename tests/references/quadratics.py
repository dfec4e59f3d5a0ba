"""Heterogeneous quadratics whose pooled optimum is known in closed form: they check the references themselves.

f_i(w) = 1/2 sum_name h_i (w - x_i)^2 with diagonal h_i > 0. The clients have what a `problem.Client` has (names, n,
steps, loss, gradient), so that the very functions that run on the softmax problem run on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from references.averaging import weight
from references.problem import Params, Problem


@dataclass(frozen=True, eq=False)
class Quadratic:
    """One client: curvature h and minimiser x by name."""

    modality: str
    h: Params
    x: Params
    n: int
    steps: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.h)

    def loss(self, params: Params) -> float:
        return float(sum((0.5 * h * (params[k] - self.x[k]) ** 2).sum() for k, h in self.h.items()))

    def gradient(self, params: Params) -> Params:
        return {k: h * (params[k] - self.x[k]) for k, h in self.h.items()}


def make_quadratics(seed=0, clients=8, size=5) -> Problem:
    """Return clients that hold "head/w" and, by turns, "encoders/s1/w" or "encoders/s2/w", all [size]."""
    rng = np.random.default_rng(seed)
    owners = []
    for i in range(clients):
        names = f"encoders/s{i % 2 + 1}/w", "head/w"
        h = {name: rng.uniform(0.3, 2.0, size) for name in names}
        x = {name: rng.normal(size=size) * 2 for name in names}
        owners.append(Quadratic(f"s{i % 2 + 1}", h, x, n=int(rng.integers(1, 13)), steps=i % 5 + 1))
    return Problem(tuple(owners), {k: np.zeros(size) for k in ("encoders/s1/w", "encoders/s2/w", "head/w")})


def quadratic_optimum(problem: Problem, weights="samples") -> Params:
    """Return sum_i w_i h_i x_i / sum_i w_i h_i by name, over its holders."""
    best = {}
    for name in problem.initial:
        holders = [(weight(c, weights), c.h[name], c.x[name]) for c in problem.clients if name in c.names]
        best[name] = sum(w * h * x for w, h, x in holders) / sum(w * h for w, h, _ in holders)
    return best
