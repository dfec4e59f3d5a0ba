"""References of algorithms in which clients keep models of their own: MOON, Ditto, IFCA, FedPer, FedRep, FedBN."""

from __future__ import annotations

import numpy as np
from references.averaging import add, descend, held, mean, minus, moved, zeros
from references.problem import Result, exact
from references.server import local_changes


def contrast(z, positive, negative, temperature):
    """Return MOON's contrastive loss of features [n, C] (a mean over n) and its gradient by z.

    -log(e^a / (e^a + e^b)) = log(1 + e^(b-a)), a = cos(z, positive) / t, b = cos(z, negative) / t; the two others are
    constants. d cos(z, u) / dz = u / (|z||u|) - cos(z, u) z / |z|^2.
    """
    norm = lambda v: np.sqrt((v**2).sum(axis=1, keepdims=True))

    def cosine(u):
        cos = (z * u).sum(axis=1, keepdims=True) / (norm(z) * norm(u))
        return cos / temperature, (u / (norm(z) * norm(u)) - cos * z / norm(z) ** 2) / temperature

    (a, da), (b, db) = cosine(positive), cosine(negative)
    weight = 1 / (1 + np.exp(a - b))
    return float(np.log1p(np.exp(b - a)).mean()), weight * (db - da) / len(z)


def moon(problem, cohorts, rate, weights="samples", mu=1.0, temperature=0.5) -> Result:
    """Li, He, Song, CVPR 2021: loss + mu * contrast(features now, received, the client's model of its last round).

    That model (memory) is the client's own end of its last round, and the first global parameters before that.
    """
    params = problem.initial
    result = Result(memory={i: held(c, params) for i, c in enumerate(problem.clients)})
    for cohort in cohorts:
        changes = {}
        for i in cohort:
            client, received = problem.clients[i], held(problem.clients[i], params)
            positive, negative = client.features(received), client.features(result.memory[i])

            def direction(w, _, client=client, positive=positive, negative=negative):
                slope = contrast(client.features(w), positive, negative, temperature)[1]
                kernel = client.names[0]
                return {**(g := client.gradient(w)), kernel: g[kernel] + mu * client.x.T @ slope}

            result.memory[i] = descend(client, received, rate, direction)
            changes[i] = minus(result.memory[i], received)
        params = moved(params, mean(problem, changes, weights))
        result.params.append(params)
    return result


def ditto(problem, cohorts, rate, weights="samples", lam=0.1) -> Result:
    """Li et al., ICML 2021: FedAvg, and beside it k_i steps v <- v - rate (grad(v) + lam (v - received)).

    v_i (memory) starts as the first parameters and goes on from round to round.
    """
    params = problem.initial
    result = Result(memory={i: held(c, params) for i, c in enumerate(problem.clients)})
    for cohort in cohorts:
        for i in cohort:
            client, received = problem.clients[i], held(problem.clients[i], params)
            pull = lambda v, _: add(client.gradient(v), minus(v, received), lam)  # noqa: B023
            result.memory[i] = descend(client, result.memory[i], rate, pull)
        params = moved(params, mean(problem, local_changes(problem, cohort, params, rate), weights))
        result.params.append(params)
    return result


def spread(problem, k, seed=0, scale=1.0):
    """Return k lists of first parameters for IFCA: the problem's own, and k - 1 with noise added (float32 exactly)."""
    rng = np.random.default_rng(seed)
    noisy = lambda: {n: exact(v + scale * rng.normal(size=v.shape)) for n, v in problem.initial.items()}
    return [problem.initial, *(noisy() for _ in range(k - 1))]


def ifca(problem, cohorts, rate, weights="samples", models=None, k=2) -> Result:
    """Ghosh et al., NeurIPS 2020, by model averaging; `params` is a list of k parameters after each round.

    A client trains the model with the lowest loss on its samples (of equals the first). Each model's mean is by name
    over the clients that picked it and hold the name; where there are none, the model's array stays.
    """
    models = list(models if models is not None else spread(problem, k))
    result = Result(extra={"picks": []})
    for cohort in cohorts:
        picks = {i: int(np.argmin([problem.clients[i].loss(m) for m in models])) for i in cohort}
        for j, model in enumerate(models):
            changes = local_changes(problem, [i for i in cohort if picks[i] == j], model, rate)
            models[j] = moved(model, mean(problem, changes, weights))
        result.params.append(list(models))
        result.extra["picks"].append(picks)
    return result


def fedper(problem, cohorts, rate, weights="samples", private=("head",), head_steps=None) -> Result:
    """Arivazhagan et al., 2019: names with a word of `private` stay with the client, all are trained together.

    A private array (memory) starts as in the first parameters; the server's copy of it never moves. `private` of
    normalisation layers is FedBN (Li et al., ICLR 2021); () is FedAvg. With `head_steps` (FedRep, Collins et al.,
    ICML 2021) the first head_steps of the k_i steps move private arrays only, the others the shared ones only.
    """
    params = problem.initial
    own = {name for name in params if set(name.split("/")) & set(private)}
    result = Result()
    for i, client in enumerate(problem.clients):
        result.memory[i] = {name: params[name] for name in client.names if name in own}
    for cohort in cohorts:
        changes = {}
        for i in cohort:
            client = problem.clients[i]
            start = {**held(client, params), **result.memory[i]}

            def direction(w, step, client=client):
                g, none = client.gradient(w), zeros(w)
                if head_steps is None:
                    return g
                return {name: (g if (name in own) == (step < head_steps) else none)[name] for name in w}

            w = descend(client, start, rate, direction)
            result.memory[i] = {name: w[name] for name in result.memory[i]}
            changes[i] = {name: w[name] - start[name] for name in w if name not in own}
        params = moved(params, mean(problem, changes, weights))
        result.params.append(params)
    return result


def fedrep(problem, cohorts, rate, weights="samples", head_steps=1, private=("head",)) -> Result:
    """Collins et al., ICML 2021: FedPer whose first `head_steps` steps train the private head, the others the rest."""
    return fedper(problem, cohorts, rate, weights, private, head_steps)


def fedbn(problem, cohorts, rate, weights="samples", private=("s1",)) -> Result:
    """Li et al., ICLR 2021: FedPer by another private scope; no layer normalises here, so an encoder stands for it."""
    return fedper(problem, cohorts, rate, weights, private)
