"""A small convex multi-modal federation in float64, on which the references of the algorithms run.

A client of modality m holds `x` [n, d_m] and `y` [n], and trains the softmax regression
logits = x @ params["encoders/m/kernel"] + params["head/bias"]; its loss is the mean cross-entropy over ALL its
samples, so that every local step is a full-batch step and nothing is random. Every `x` and every first parameter is
a float32 exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

Params = dict[str, np.ndarray]
SIZES = (12, 12, 6, 6, 4, 3, 2, 1)  # divisors of a batch of 12: an engine that fills batches sees every sample equally


@dataclass(frozen=True, eq=False)
class Client:
    """One owner of samples of one modality: `steps` local steps a round."""

    modality: str
    x: np.ndarray
    y: np.ndarray
    steps: int

    @property
    def n(self) -> int:
        return len(self.y)

    @property
    def names(self) -> tuple[str, str]:
        """Names of the parameters that the client holds."""
        return f"encoders/{self.modality}/kernel", "head/bias"

    def features(self, params: Params) -> np.ndarray:
        """Return x @ kernel [n, C]: what a representation is here."""
        return self.x @ params[self.names[0]]

    def log_probabilities(self, params: Params) -> np.ndarray:
        logits = self.features(params) + params["head/bias"]
        logits = logits - logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    def loss(self, params: Params) -> float:
        return float(-self.log_probabilities(params)[np.arange(self.n), self.y].mean())

    def gradient(self, params: Params) -> Params:
        """Return the gradient of `loss` by the two parameters held."""
        residual = np.exp(self.log_probabilities(params))
        residual[np.arange(self.n), self.y] -= 1
        return {self.names[0]: self.x.T @ residual / self.n, "head/bias": residual.mean(axis=0)}


@dataclass(frozen=True, eq=False)
class Problem:
    """Clients (with names, n, steps, loss, gradient), and the parameters they start from."""

    clients: tuple[Any, ...]
    initial: Params


@dataclass
class Result:
    """Global parameters after each round, what each client keeps at the end, and what else an algorithm shows."""

    params: list[Params] = field(default_factory=list)
    memory: dict[int, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def exact(values) -> np.ndarray:
    """Return float64 values that float32 represents exactly."""
    return np.asarray(values, np.float32).astype(np.float64)


def make_problem(seed=0, clients=8, dims=(3, 4), classes=3, max_steps=5) -> Problem:
    """Return a heterogeneous problem: modalities alternate (s1, s2, s1, ...), sizes cycle through SIZES, steps ragged.

    Every client shifts its inputs and prefers one class, and a third of the labels is noise, so that the pooled
    optimum is finite (seeds 0, 1, 2 and 4: some others are separable) and is not where FedAvg ends.
    """
    rng = np.random.default_rng(seed)
    truth = {f"s{m + 1}": rng.normal(size=(d, classes)) for m, d in enumerate(dims)}
    owners = []
    for i in range(clients):
        modality, n = f"s{i % 2 + 1}", SIZES[i % len(SIZES)]
        x = exact(rng.normal(size=(n, len(truth[modality]))) + 0.7 * rng.normal(size=len(truth[modality])))
        scores = x @ truth[modality] + rng.gumbel(size=(n, classes)) + 1.5 * np.eye(classes)[i % classes]
        y = np.where(rng.random(n) < 1 / 3, rng.integers(0, classes, n), scores.argmax(axis=1))
        owners.append(Client(modality, x, y, steps=int((3 * i + seed) % max_steps + 1)))
    initial = {f"encoders/{m}/kernel": exact(0.5 * rng.normal(size=w.shape)) for m, w in truth.items()}
    return Problem(tuple(owners), {**initial, "head/bias": exact(0.1 * rng.normal(size=classes))})


def make_cohorts(problem: Problem, rounds=6, size=4, seed=0) -> list[list[int]]:
    """Return ascending client numbers a round; in round 1 (the second) only holders of s1 take part."""
    rng = np.random.default_rng(seed)
    everybody = np.arange(len(problem.clients))
    s1 = np.array([i for i in everybody if problem.clients[i].modality == "s1"])
    pools = [s1 if r == 1 else everybody for r in range(rounds)]
    return [sorted(int(i) for i in rng.choice(pool, min(size, len(pool)), replace=False)) for pool in pools]


def full_cohorts(problem: Problem, rounds=6) -> list[list[int]]:
    """Return rounds in which every client takes part."""
    return [list(range(len(problem.clients))) for _ in range(rounds)]


def optimum(problem: Problem, weights="samples", iterations=100) -> Params:
    """Return the minimiser of sum_i w_i loss_i / sum_i w_i nearest to the first parameters, by Newton's method.

    Pooled, the problem is one softmax regression with inputs [x_s1 or 0, x_s2 or 0, 1]; a column added to all classes
    changes nothing, so the Hessian is singular. Its pseudo-inverse leaves those directions as they were, and so does
    every gradient method: the limits can be compared array by array. Raises RuntimeError where it does not converge
    (separable labels have no optimum).
    """
    names = sorted(problem.initial)
    rows, targets, shares = _pooled(problem, names, weights)
    theta = np.concatenate([np.atleast_2d(problem.initial[name]) for name in names])
    labels = np.eye(theta.shape[1])[targets]
    for _ in range(iterations):
        p = _softmax(rows @ theta)
        gradient = rows.T @ ((p - labels) * shares[:, None])
        if np.abs(gradient).max() < 1e-13:
            ends = np.cumsum([len(np.atleast_2d(problem.initial[name])) for name in names])[:-1]
            return {name: t.reshape(problem.initial[name].shape) for name, t in zip(names, np.split(theta, ends))}
        curvature = np.einsum("n,nc,ce->nce", shares, p, np.eye(p.shape[1])) - np.einsum("n,nc,ne->nce", shares, p, p)
        hessian = np.einsum("na,nb,nce->acbe", rows, rows, curvature).reshape(theta.size, theta.size)
        step = (np.linalg.pinv(hessian, rcond=1e-10) @ gradient.ravel()).reshape(theta.shape)
        theta = theta - step * min(1.0, 2.0 / np.linalg.norm(step))  # bounded: Newton may overshoot far from the end
    raise RuntimeError("the pooled problem has no finite optimum")


def _softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _pooled(problem, names, weights):
    """Return inputs [N, D] in the order of `names`, labels [N] and each sample's share of the objective [N]."""
    rows, targets, shares = [], [], []
    for client in problem.clients:
        blocks = {client.names[0]: client.x, "head/bias": np.ones((client.n, 1))}
        widths = {name: len(np.atleast_2d(problem.initial[name])) for name in names}
        rows.append(np.hstack([blocks.get(name, np.zeros((client.n, widths[name]))) for name in names]))
        targets.append(client.y)
        shares.append(np.full(client.n, (client.n if weights == "samples" else 1.0) / client.n))
    shares = np.concatenate(shares)
    return np.concatenate(rows), np.concatenate(targets), shares / shares.sum()
