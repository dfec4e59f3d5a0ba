"""Parameters after rounds of FedAvg and SCAFFOLD against those of other public implementations.

``data/parity`` holds the problem, each implementation's parameters after every round, and the script that wrote them
in an environment of its own; each script's docstring says which variant it computes. The loops here, in NumPy and
float64, are what those docstrings say in words.
"""

import pathlib

import numpy as np
import pytest
from flax import nnx

from mmfl_jax import Simulation, Study
from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.federation import Federation
from mmfl_jax.models import Output

FOLDER = pathlib.Path(__file__).parent / "data" / "parity"
TOLERANCE = 1e-5


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def problem():
    found = load("problem")
    ends = np.cumsum(found["sizes"])[:-1]
    found["clients"] = list(zip(np.split(found["x"].astype(float), ends), np.split(found["y"], ends)))
    found["initial"] = {name: found[name].astype(float) for name in ("kernel", "bias")}
    return found


def gradient(params, x, y):
    """Return the gradient of a client's mean cross-entropy."""
    scores = x @ params["kernel"] + params["bias"]
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    residual = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) / len(y)
    return {"kernel": x.T @ residual, "bias": residual.sum(axis=0)}


def combine(function, *trees):
    return {name: function(*(tree[name] for tree in trees)) for name in trees[0]}


def average(trees, weights):
    return combine(lambda *leaves: np.average(leaves, axis=0, weights=weights), *trees)


def trained(problem, start, client, correction):
    """Return a client's parameters after its steps of SGD on gradients plus a correction."""
    params = start
    for _ in range(problem["steps"]):
        slope = gradient(params, *client)
        params = combine(lambda p, g, c: p - float(problem["learning_rate"]) * (g + c), params, slope, correction)
    return params


def zeros(params):
    return combine(np.zeros_like, params)


def fedavg(problem, weights):
    """Yield the parameters after each round of FedAvg."""
    params = problem["initial"]
    for _ in range(problem["rounds"]):
        params = average([trained(problem, params, c, zeros(params)) for c in problem["clients"]], weights)
        yield params


def scaffold(problem):
    """Yield (parameters, server's control, clients' controls) after each round of SCAFFOLD, option II, uniform weights.

    Karimireddy et al., 2020, algorithm 1 with all clients in each round and global step size 1.
    """
    params, server = problem["initial"], zeros(problem["initial"])
    controls = [server for _ in problem["clients"]]
    moved = float(problem["steps"]) * float(problem["learning_rate"])
    for _ in range(problem["rounds"]):
        ends, renewed = [], []
        for client, control in zip(problem["clients"], controls):
            end = trained(problem, params, client, combine(np.subtract, server, control))
            ends.append(end)
            renewed.append(combine(lambda own, c, x, y: own - c + (x - y) / moved, control, server, params, end))
        changes = [combine(np.subtract, new, old) for new, old in zip(renewed, controls)]
        server = combine(np.add, server, average(changes, np.ones(len(changes))))
        params, controls = average(ends, np.ones(len(ends))), renewed
        yield params, server, controls


def stacked(rounds):
    rounds = list(rounds)
    return {name: np.stack([r[name] for r in rounds]) for name in rounds[0]}


def scaffold_arrays(problem):
    """Return SCAFFOLD's parameters and controls after each round by the names in ``fluke_scaffold.npz``."""
    named = []
    for params, server, controls in scaffold(problem):
        row = {**params, **{f"server/{name}": value for name, value in server.items()}}
        named.append(row | {f"clients/{name}": value for name, value in stacked(controls).items()})
    return stacked(named)


def distance(found, expected):
    """Return the largest difference of any array after any round."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in found)
    return max(np.abs(found[name] - expected[name]).max() for name in found)


def test_problem_tells_the_algorithms_apart(problem):
    weighted, uniform = (stacked(fedavg(problem, weights)) for weights in (problem["sizes"], np.ones(6)))
    corrected = stacked(params for params, *_ in scaffold(problem))
    assert len(weighted["kernel"]) == 5
    assert min(distance(weighted, uniform), distance(uniform, corrected), distance(weighted, corrected)) > 0.05


def test_fedavg_of_fedjax_is_the_loop_weighted_by_samples(problem):
    assert distance(load("fedjax_fedavg"), stacked(fedavg(problem, problem["sizes"]))) < TOLERANCE


def test_scaffold_of_fluke_is_the_uniform_loop_with_option_two(problem):
    assert distance(load("fluke_scaffold"), scaffold_arrays(problem)) < TOLERANCE


class Samples(Archive):
    """Hold the problem's samples as vectors of one modality."""

    def __init__(self, problem):
        self.name, self.task, self.notes, self.splits, self.attributes = "parity", "multiclass", {}, None, {}
        self.class_names, self.labels, self.x = ("a", "b", "c"), problem["y"], problem["x"]
        unit = np.zeros(5, np.float32), np.ones(5, np.float32)
        self.modalities = {"x": ModalitySpec((5,), tuple("abcde"), *unit)}

    def read(self, modality, indices):
        return self.x[indices]


class Softmax(nnx.Module):
    """Hold a dense layer with the problem's first weights."""

    def __init__(self, problem):
        self.head = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
        self.head.kernel[...], self.head.bias[...] = problem["kernel"], problem["bias"]

    def __call__(self, images, train):
        return Output(self.head(images["x"]), {})


@pytest.mark.parametrize(
    ("file", "algorithm", "weighting"),
    [("fedjax_fedavg", "fedavg", "samples"), ("fluke_scaffold", "scaffold", "uniform")],
)
def test_the_engine_equals_the_other_implementations(problem, file, algorithm, weighting):
    ends = np.cumsum(problem["sizes"])
    clients = [(str(i), ("x",), np.arange(e - n, e)) for i, (n, e) in enumerate(zip(problem["sizes"], ends))]
    study = Study.of(
        algorithm=algorithm,
        weighting=weighting,
        local_steps=int(problem["steps"]),
        batch_size=12,
        rounds=5,
        client_optimizer="sgd",
        client_learning_rate=float(problem["learning_rate"]),
    )
    federation = Federation.of(Samples(problem), clients, np.zeros(0, np.int64))
    sim = Simulation(study, federation, make_model=lambda held: Softmax(problem))
    found = []
    for _ in range(5):
        sim.run_round()
        found.append({name: np.array(sim.state.params[f"head/{name}"]) for name in ("kernel", "bias")})
    expected = {name: load(file)[name] for name in ("kernel", "bias")}
    assert distance(stacked(found), expected) < TOLERANCE
