"""References of what a server does with the mean change: FedAvg, momentum, adaptive servers, FedExP, FedBuff.

Every function takes (problem, cohorts, rate, weights) and returns a `Result`; `rate` is that of the clients. A client
sends change_i = w_i - received; D is, for each name, the weighted mean of the changes over the holders in the cohort.
"""

from __future__ import annotations

import numpy as np
from references.averaging import add, descend, held, mean, minus, moved, square, zeros
from references.problem import Result


def local_changes(problem, cohort, params, rate, mu=0.0):
    """Return {i: change} of clients that descend loss + mu/2 |w - received|^2."""
    changes = {}
    for i in cohort:
        client, received = problem.clients[i], held(problem.clients[i], params)
        w = descend(client, received, rate, lambda w, _: add(client.gradient(w), minus(w, received), mu))  # noqa: B023
        changes[i] = minus(w, received)
    return changes


def fedavg(problem, cohorts, rate, weights="samples") -> Result:
    """McMahan et al., AISTATS 2017: x <- x + D."""
    return fedprox(problem, cohorts, rate, weights, mu=0.0)


def fedprox(problem, cohorts, rate, weights="samples", mu=0.01) -> Result:
    """Li et al., MLSys 2020: w <- w - rate (grad + mu (w - received)); x <- x + D."""
    result, params = Result(), problem.initial
    for cohort in cohorts:
        params = moved(params, mean(problem, local_changes(problem, cohort, params, rate, mu), weights))
        result.params.append(params)
    return result


def _served(problem, cohorts, rate, weights, state, update) -> Result:
    """Run rounds of `step, state = update(D, state)` by name, D = 0 where nobody held the name.

    The state of every name moves every round; a parameter moves only where somebody held it.
    """
    result, params = Result(), problem.initial
    state = {name: state(value) for name, value in params.items()}
    for cohort in cohorts:
        change = mean(problem, local_changes(problem, cohort, params, rate), weights)
        steps = {}
        for name in params:
            steps[name], state[name] = update(change.get(name, np.zeros_like(params[name])), state[name])
        params = moved(params, {name: steps[name] for name in change})
        result.params.append(params)
    result.extra["state"] = state
    return result


def fedavgm(problem, cohorts, rate, weights="samples", beta=0.9, server_rate=1.0) -> Result:
    """Hsu et al., 2019: v <- beta v + D; x <- x + server_rate v."""

    def update(change, v):
        v = beta * v + change
        return server_rate * v, v

    return _served(problem, cohorts, rate, weights, np.zeros_like, update)


def _adaptive(problem, cohorts, rate, weights, server_rate, b1, tau, second) -> Result:
    """Reddi et al., ICLR 2021, Algorithm 2: m <- b1 m + (1-b1) D; x <- x + server_rate m / (sqrt(v) + tau).

    v starts at tau^2, m at 0, and nothing is corrected for its bias.
    """

    def update(change, state):
        m, v = b1 * state[0] + (1 - b1) * change, second(state[1], change**2)
        return server_rate * m / (np.sqrt(v) + tau), (m, v)

    start = lambda value: (np.zeros_like(value), np.full_like(value, tau**2))
    return _served(problem, cohorts, rate, weights, start, update)


def fedadam(problem, cohorts, rate, weights="samples", server_rate=0.01, b1=0.9, b2=0.99, tau=1e-3) -> Result:
    """Adaptive server with v <- b2 v + (1-b2) D^2."""
    second = lambda v, square: b2 * v + (1 - b2) * square
    return _adaptive(problem, cohorts, rate, weights, server_rate, b1, tau, second)


def fedyogi(problem, cohorts, rate, weights="samples", server_rate=0.01, b1=0.9, b2=0.99, tau=1e-3) -> Result:
    """Adaptive server with v <- v - (1-b2) D^2 sign(v - D^2)."""
    second = lambda v, square: v - (1 - b2) * square * np.sign(v - square)
    return _adaptive(problem, cohorts, rate, weights, server_rate, b1, tau, second)


def fedadagrad(problem, cohorts, rate, weights="samples", server_rate=0.01, b1=0.0, tau=1e-3) -> Result:
    """Adaptive server with v <- v + D^2; the paper takes b1 = 0, so that m = D."""
    return _adaptive(problem, cohorts, rate, weights, server_rate, b1, tau, lambda v, square: v + square)


def fedexp(problem, cohorts, rate, weights="samples", epsilon=1e-3) -> Result:
    """Jhunjhunwala et al., ICLR 2023: x <- x + eta D, eta = max(1, sum mean |change_i|^2 / (2 (sum |D|^2 + eps))).

    Both sums run over names, each with the mean over its own holders; one eta for all names.
    """
    result, params = Result(extra={"etas": []}), problem.initial
    for cohort in cohorts:
        changes = local_changes(problem, cohort, params, rate)
        change = mean(problem, changes, weights)
        squares = {i: {name: np.sum(c**2) for name, c in changes[i].items()} for i in changes}
        eta = max(1.0, sum(mean(problem, squares, weights).values()) / (2 * (square(change) + epsilon)))
        params = moved(params, change, eta)
        result.params.append(params)
        result.extra["etas"].append(float(eta))
    return result


def mimelite(problem, cohorts, rate, weights="samples", beta=0.9) -> Result:
    """Karimireddy et al., NeurIPS 2021, MimeLite with momentum SGD.

    Local steps apply the server's momentum s as it is: w <- w - rate ((1-beta) grad + beta s). After the round
    s <- (1-beta) G + beta s, G the mean over the cohort of the full gradients at the parameters received; s of a name
    that nobody held stays, s starts at 0. x <- x + D.
    """
    result, params, s = Result(), problem.initial, zeros(problem.initial)
    for cohort in cohorts:
        changes, gradients = {}, {}
        for i in cohort:
            client, received = problem.clients[i], held(problem.clients[i], params)
            blend = lambda w, _: {k: (1 - beta) * g + beta * s[k] for k, g in client.gradient(w).items()}  # noqa: B023
            changes[i] = minus(descend(client, received, rate, blend), received)
            gradients[i] = client.gradient(received)
        s = {**s, **{k: (1 - beta) * g + beta * s[k] for k, g in mean(problem, gradients, weights).items()}}
        params = moved(params, mean(problem, changes, weights))
        result.params.append(params)
    result.extra["momentum"] = s
    return result


def fedbuff(problem, schedule, rate, weights="uniform", server_rate=1.0) -> Result:
    """Nguyen et al., AISTATS 2022, with a given schedule: a round is a list of (client, delay), each client once.

    A client starts from the parameters of `delay` rounds ago (the first ones if that is before the beginning); its
    change is scaled by 1 / sqrt(1 + delay); x <- x + server_rate * mean, for each name over the K reports that hold
    it (the divisor is K, not the sum of the scales).
    """
    result, history = Result(), [problem.initial]
    for reports in schedule:
        values = {}
        for i, delay in reports:
            change = local_changes(problem, [i], history[max(0, len(history) - 1 - delay)], rate)[i]
            values[i] = {name: c / np.sqrt(1.0 + delay) for name, c in change.items()}
        history.append(moved(history[-1], mean(problem, values, weights), server_rate))
    result.params = history[1:]
    return result
