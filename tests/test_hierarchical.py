"""Servers of their own under a global one equal a float64 loop, and averaging without servers where the period is 1."""

import numpy as np
import pytest
from federations import ragged_federation, simulation
from references.problem import make_cohorts
from test_algorithms import RATE, close, engine, problem, run

from mmfl_jax import UserError
from mmfl_jax.federation.hierarchy import servers_of


def local(client, params):
    """Return what a client's steps of gradient descent make of parameters."""
    now = {n: np.array(params[n], np.float64) for n in client.names}
    for _ in range(client.steps):
        gradient = client.gradient(now)
        now = {n: now[n] - RATE * gradient[n] for n in now}
    return now


def loop(made, cohorts, servers, period):
    """Return the global parameters after each round: plain loops over servers and clients, in float64."""
    models = [{n: np.array(v, np.float64) for n, v in made.initial.items()} for _ in range(max(servers) + 1)]
    weight = [dict.fromkeys(made.initial, 0.0) for _ in models]
    mean = {n: np.array(v, np.float64) for n, v in made.initial.items()}
    found = []
    for number, cohort in enumerate(cohorts, start=1):
        sent = [[], *[[] for _ in models[1:]]]
        for i in cohort:
            sent[servers[i]].append((made.clients[i].n, local(made.clients[i], models[servers[i]])))
        for model, mine, updates in zip(models, weight, sent):
            for name in made.initial:
                held = [(n, new[name]) for n, new in updates if name in new]
                if held:
                    model[name] = sum(n * value for n, value in held) / sum(n for n, _ in held)
                    mine[name] += sum(n for n, _ in held)
        for name in made.initial:
            total = sum(mine[name] for mine in weight)
            if total:
                mean[name] = sum(mine[name] * model[name] for mine, model in zip(weight, models)) / total
        found.append({n: v.copy() for n, v in mean.items()})
        if number % period == 0:
            models = [{n: v.copy() for n, v in mean.items()} for _ in models]
            weight = [dict.fromkeys(made.initial, 0.0) for _ in models]
    return found


def hierarchy(made, algorithm, servers, **options):
    """Return the simulation of a problem whose clients are under these servers."""
    from test_algorithms import Samples

    plain, count = Samples.__init__, [c.n for c in made.clients]

    def init(self, problem):
        plain(self, problem)
        self.attributes = {"land": np.repeat([*servers, 0], [*count, 3])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Samples, "__init__", init)
        return engine(made, algorithm, servers="land", **options)


@pytest.mark.parametrize("period", [1, 3])
def test_equals_a_loop_over_servers(period):
    made, cohorts = problem(), make_cohorts(problem())
    servers = [i % 3 for i in range(len(made.clients))]
    sim = hierarchy(made, f"hierarchical:period={period}", servers, participation="4")
    found = run(sim, cohorts)
    close(found, loop(made, cohorts, servers, period))


@pytest.mark.parametrize("algorithm", ["fedavg", "fedprox:0.3", "fedadam:rate=0.1:tau=0.01"])
def test_one_server_is_the_algorithm_itself(algorithm):
    made, cohorts = problem(), make_cohorts(problem())
    sim = hierarchy(made, f"{algorithm}+hierarchical:period=2", [0] * len(made.clients), participation="4")
    close(run(sim, cohorts), run(engine(made, algorithm, participation="4"), cohorts), 1e-6)


def test_a_period_of_one_is_averaging_without_servers():
    made, cohorts = problem(), make_cohorts(problem())
    servers = [i % 2 for i in range(len(made.clients))]
    sim = hierarchy(made, "hierarchical:period=1", servers, participation="4")
    close(run(sim, cohorts), run(engine(made, "fedavg", participation="4"), cohorts), 1e-6)


def test_bytes_are_those_of_fedavg_and_of_the_servers():
    federation = ragged_federation([8, 9, 7, 20], [("s1",), ("s2",)] * 2)
    plain = simulation(federation, method="mf+fw")
    tall = simulation(federation, method="mf+fw", servers="region", algorithm="hierarchical:period=2")
    rows = [tall.run_round() for _ in range(2)]
    row = plain.run_round()
    assert all(r["bytes_up"] == row["bytes_up"] and r["bytes_down"] == row["bytes_down"] for r in rows)
    count = int(tall.servers.max()) + 1
    model = 4 * sum(v.size for v in tall.state.params.values())
    moments = 4 * sum(v.size for v in tall.state.stats.values())
    assert [r["bytes_between_servers"] for r in rows] == [2 * count * moments, 2 * count * (moments + model)]


def test_a_client_is_under_the_server_of_most_of_its_samples():
    federation = ragged_federation([4, 5], [("s1",), ("s2",)])
    federation.archive.attributes["land"] = np.array([*"aabb", *"bbbca", *["d"] * 20])
    assert servers_of(federation, "land").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "hierarchical"}, "who is under which server is told by --servers, such as country"),
        ({"servers": "region"}, r"--servers region: --algorithm fedavg has one server; add \+hierarchical"),
        (
            {"servers": "land", "algorithm": "hierarchical"},
            "--servers 'land': the archive has no such attribute; it has region",
        ),
        ({"servers": "region", "algorithm": "scaffold+hierarchical"}, "need an algorithm without memory"),
        ({"servers": "region", "algorithm": "int8+hierarchical"}, "need an algorithm without transform"),
        ({"servers": "region", "algorithm": "hierarchical+median"}, "hierarchical comes last, and goes with no other"),
        ({"servers": "region", "algorithm": "median+hierarchical"}, "need an algorithm without reduce"),
        ({"servers": "region", "algorithm": "hierarchical:period=0"}, "period must be 1 round or more, not 0"),
    ],
)
def test_mistakes(options, message):
    federation = ragged_federation([8, 9], [("s1",), ("s2",)])
    with pytest.raises(UserError, match=message):
        simulation(federation, **options)
