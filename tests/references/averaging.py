"""What the references share: parts of parameters, local descent, and means over the holders of each name."""

from __future__ import annotations

import numpy as np
from references.problem import Params, Problem


def held(client, params: Params) -> Params:
    """Return the parameters of which the client holds a copy."""
    return {name: params[name] for name in client.names}


def zeros(params: Params) -> Params:
    return {name: np.zeros_like(value) for name, value in params.items()}


def add(a: Params, b: Params, scale=1.0) -> Params:
    """Return a + scale * b for the names of `a`."""
    return {name: a[name] + scale * b[name] for name in a}


def minus(a: Params, b: Params) -> Params:
    return add(a, b, -1.0)


def square(params: Params) -> float:
    """Return the squared L2 norm of all arrays together."""
    return float(sum((value**2).sum() for value in params.values()))


def descend(client, start: Params, rate, direction) -> Params:
    """Return w after `client.steps` steps w <- w - rate * direction(w, step)."""
    w = start
    for step in range(client.steps):
        w = add(w, direction(w, step), -rate)
    return w


def weight(client, weights) -> float:
    """Return n_i ("samples") or 1 ("uniform")."""
    return {"samples": float(client.n), "uniform": 1.0}[weights]


def mean(problem: Problem, values: dict[int, Params], weights="samples") -> Params:
    """Return for each name the weighted mean over the clients whose value has that name; other names are absent."""
    sums, totals = {}, {}
    for i, value in values.items():
        w = weight(problem.clients[i], weights)
        for name, array in value.items():
            sums[name] = sums.get(name, 0.0) + w * np.asarray(array, np.float64)
            totals[name] = totals.get(name, 0.0) + w
    return {name: sums[name] / totals[name] for name in sums}


def share(problem: Problem, cohort, weights="samples") -> dict[str, float]:
    """Return for each name the weight of the holders in the cohort over that of all holders in the federation."""

    def total(clients, name):
        return sum(weight(c, weights) for c in clients if name in c.names)

    reported = [problem.clients[i] for i in cohort]
    return {name: total(reported, name) / total(problem.clients, name) for name in problem.initial}


def moved(params: Params, change: Params, scale=1.0) -> Params:
    """Return params + scale * change; names that `change` lacks stay as they are."""
    return {name: value + scale * change[name] if name in change else value for name, value in params.items()}
