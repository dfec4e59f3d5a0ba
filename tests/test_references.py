"""The float64 references agree with each other where theory says so, and converge where it says so."""

import numpy as np
import pytest
from references import algorithms as ref
from references.averaging import held, mean, moved
from references.problem import full_cohorts, make_cohorts, make_problem, optimum
from references.quadratics import make_quadratics, quadratic_optimum
from references.server import local_changes

RATE = 0.2
PROBLEM = make_problem()
COHORTS = make_cohorts(PROBLEM)
FULL = full_cohorts(PROBLEM)


def distance(a, b):
    return max(float(np.abs(a[name] - b[name]).max()) for name in b)


def same(a, b, tolerance=1e-12):
    assert len(a.params) == len(b.params)
    assert max(distance(p, q) for p, q in zip(a.params, b.params)) < tolerance


def differs(a, b):
    assert distance(a.params[-1], b.params[-1]) > 1e-4


def numeric(f, params, h=1e-6):
    """Return the gradient of f(params) by central differences."""
    gradient = {name: np.zeros_like(value) for name, value in params.items()}
    for name, value in params.items():
        for index in np.ndindex(value.shape):
            up, down = value.copy(), value.copy()
            up[index] += h
            down[index] -= h
            gradient[name][index] = (f({**params, name: up}) - f({**params, name: down})) / (2 * h)
    return gradient


def equal_steps(problem, steps=3):
    clients = [type(c)(**{**vars(c), "steps": steps}) for c in problem.clients]
    return type(problem)(tuple(clients), problem.initial)


def test_problem_is_ragged_and_exact():
    assert {c.modality for c in PROBLEM.clients} == {"s1", "s2"}
    assert len({c.n for c in PROBLEM.clients}) > 4
    assert all(12 % c.n == 0 for c in PROBLEM.clients)
    assert {c.steps for c in PROBLEM.clients} == {1, 2, 3, 4, 5}
    assert {PROBLEM.clients[i].modality for i in COHORTS[1]} == {"s1"}
    for values in [c.x for c in PROBLEM.clients] + list(PROBLEM.initial.values()):
        assert np.array_equal(values, values.astype(np.float32))


@pytest.mark.parametrize("client", PROBLEM.clients[::3])
def test_gradients_are_those_of_the_losses(client):
    params = held(client, PROBLEM.initial)
    assert distance(client.gradient(params), numeric(client.loss, params)) < 1e-8
    rng = np.random.default_rng(0)
    z, positive, negative = rng.normal(size=(3, 4, 3))
    slope = numeric(lambda p: ref.contrast(p["z"], positive, negative, 0.5)[0], {"z": z})["z"]
    assert np.abs(slope - ref.contrast(z, positive, negative, 0.5)[1]).max() < 1e-8


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_optimum_is_stationary(weights):
    assert ref.stationary(PROBLEM, optimum(PROBLEM, weights), weights) < 1e-12


def test_identities_of_server_and_client():
    plain = ref.fedavg(PROBLEM, COHORTS, RATE)
    same(plain, ref.fedprox(PROBLEM, COHORTS, RATE, mu=0))
    same(plain, ref.fedavgm(PROBLEM, COHORTS, RATE, beta=0))
    same(plain, ref.fedexp(PROBLEM, COHORTS, RATE, epsilon=1e9))
    same(plain, ref.mimelite(PROBLEM, COHORTS, RATE, beta=0))
    same(plain, ref.moon(PROBLEM, COHORTS, RATE, mu=0))
    same(plain, ref.ditto(PROBLEM, COHORTS, RATE, lam=0))
    same(plain, ref.fedper(PROBLEM, COHORTS, RATE, private=()))
    same(plain, ref.fedavg_top_k(PROBLEM, COHORTS, RATE, fraction=1))
    same(plain, ref.norm_clip(PROBLEM, COHORTS, RATE, c=1e9))
    single = ref.ifca(PROBLEM, COHORTS, RATE, models=[PROBLEM.initial])
    assert all(distance(p, q[0]) == 0 for p, q in zip(plain.params, single.params))
    for other in ("fedprox", "fedavgm", "mimelite", "moon", "fedper", "fedavg_top_k", "fednova", "scaffold", "feddyn"):
        differs(plain, getattr(ref, other)(PROBLEM, COHORTS, RATE))
    for other in ("fedadam", "fedyogi", "fedadagrad", "fedavg_sign", "median", "krum", "fedbn", "fedrep", "feddc"):
        differs(plain, getattr(ref, other)(PROBLEM, COHORTS, RATE))
    differs(plain, ref.norm_clip(PROBLEM, COHORTS, RATE, c=0.05))
    differs(plain, ref.fedexp(PROBLEM, FULL, RATE))
    differs(plain, ref.fedavg(PROBLEM, COHORTS, RATE, "uniform"))


def test_identities_of_normalised_and_unweighted_means():
    level = equal_steps(PROBLEM)
    same(ref.fedavg(level, COHORTS, RATE), ref.fednova(level, COHORTS, RATE))
    uniform = ref.fedavg(PROBLEM, COHORTS, RATE, "uniform")
    same(uniform, ref.trimmed_mean(PROBLEM, COHORTS, RATE, fraction=0))
    same(uniform, ref.multi_krum(PROBLEM, COHORTS, RATE, m=99))
    same(uniform, ref.fedbuff(PROBLEM, [[(i, 0) for i in c] for c in COHORTS], RATE))
    two = [[0, 2], [1, 3], [0, 1]]
    same(ref.fedavg(PROBLEM, two, RATE, "uniform"), ref.median(PROBLEM, two, RATE))
    same(ref.trimmed_mean(PROBLEM, FULL, RATE, fraction=0.45), ref.median(PROBLEM, FULL, RATE))


def test_first_rounds_of_corrected_clients_are_plain():
    """Controls and drifts start at 0, so that round one is FedAvg (FedDyn, FedDC: what their means make of FedProx)."""
    plain, near = ref.fedavg(PROBLEM, FULL[:1], RATE), ref.fedprox(PROBLEM, FULL[:1], RATE, mu=0.3).params[0]
    same(plain, ref.scaffold(PROBLEM, FULL[:1], RATE))
    doubled = moved(PROBLEM.initial, {k: near[k] - PROBLEM.initial[k] for k in near}, 2.0)
    for name in ("feddyn", "feddc"):
        assert distance(getattr(ref, name)(PROBLEM, FULL[:1], RATE, alpha=0.3).params[0], doubled) < 1e-12
    same(plain, ref.moon(PROBLEM, FULL[:1], RATE, mu=3.0))  # received and previous are one model: nothing to prefer


def test_feddc_variants_agree_where_everybody_takes_part():
    for controls in ("updates", "gradients"):
        cohort = ref.feddc(PROBLEM, FULL, RATE, controls=controls)
        same(cohort, ref.feddc(PROBLEM, FULL, RATE, controls=controls, drifts="all"))
    differs(ref.feddc(PROBLEM, FULL, RATE), ref.feddc(PROBLEM, FULL, RATE, controls="gradients"))
    differs(ref.feddc(PROBLEM, COHORTS, RATE), ref.feddc(PROBLEM, COHORTS, RATE, drifts="all"))


@pytest.mark.parametrize("name", [n for n in ref.__all__ if n.startswith("fed") and n not in ("fedbuff",)])
def test_absent_names_stay(name):
    before, after = getattr(ref, name)(PROBLEM, COHORTS, RATE).params[:2]
    assert np.array_equal(before["encoders/s2/kernel"], after["encoders/s2/kernel"])
    if name != "fedbn":
        assert not np.array_equal(before["encoders/s1/kernel"], after["encoders/s1/kernel"])


def test_adaptive_state_decays_where_nobody_holds():
    one = ref.fedadam(PROBLEM, COHORTS[:1], RATE).extra["state"]["encoders/s2/kernel"]
    two = ref.fedadam(PROBLEM, COHORTS[:2], RATE).extra["state"]["encoders/s2/kernel"]
    assert np.allclose(two[0], 0.9 * one[0])
    assert np.allclose(two[1], 0.99 * one[1])
    change = ref.fedadam(PROBLEM, COHORTS[:1], RATE, tau=0.1, b1=0.5, b2=0.5, server_rate=1).params[0]["head/bias"]
    d = mean(PROBLEM, local_changes(PROBLEM, COHORTS[0], PROBLEM.initial, RATE))["head/bias"]
    expected = 0.5 * d / (np.sqrt(0.5 * 0.01 + 0.5 * d**2) + 0.1)
    assert np.allclose(change - PROBLEM.initial["head/bias"], expected)


def test_fednova_normaliser_counts_momentum():
    """|a_i|_1 is by how much k heavy-ball steps move along a constant gradient, in steps of plain SGD."""
    for steps in (1, 2, 5):
        v = moved_by = 0.0
        for _ in range(steps):
            v = 0.9 * v + 1
            moved_by += v
        assert ref.normaliser(steps, 0.9) == pytest.approx(moved_by)
        assert ref.normaliser(steps) == steps


def test_private_arrays_stay_with_clients():
    result = ref.fedrep(PROBLEM, FULL, RATE, head_steps=2)
    assert np.array_equal(result.params[-1]["head/bias"], PROBLEM.initial["head/bias"])
    biases = [m["head/bias"] for m in result.memory.values()]
    assert all(not np.array_equal(biases[0], b) for b in biases[1:])
    only_head = ref.fedrep(PROBLEM, FULL, RATE, head_steps=99)
    assert distance(only_head.params[-1], PROBLEM.initial) == 0


def test_ditto_with_a_strong_pull_stays_near_and_with_none_trains_alone():
    alone = ref.ditto(PROBLEM, FULL, RATE, lam=0)
    client, w = PROBLEM.clients[3], held(PROBLEM.clients[3], PROBLEM.initial)
    for _ in range(client.steps * len(FULL)):
        w = moved(w, client.gradient(w), -RATE)
    assert distance(alone.memory[3], w) < 1e-12
    near, received = ref.ditto(PROBLEM, FULL, 0.01, lam=90).memory[3], ref.fedavg(PROBLEM, FULL, 0.01).params[-2]
    assert distance(received, near) < 0.02


def test_robust_reductions_shrug_off_an_outlier():
    vectors = np.vstack([np.random.default_rng(0).normal(size=(6, 4)), np.full((1, 4), 50.0)])
    assert ref.krum_scores(vectors, 1).argmax() == 6
    assert ref.blocks(PROBLEM) == [["encoders/s1/kernel"], ["encoders/s2/kernel"], ["head/bias"]]


@pytest.mark.parametrize("name, options", [("fedavg_sign", {}), ("fedavg_top_k", {"fraction": 0.3})])
def test_error_feedback_loses_nothing(name, options):
    """Of one client alone, what arrived and what it still keeps are all the changes it made."""
    result = getattr(ref, name)(PROBLEM, [[0]] * 5, RATE, **options)
    starts = [PROBLEM.initial, *result.params[:-1]]
    changes = [local_changes(PROBLEM, [0], params, RATE)[0] for params in starts]
    for key, residual in result.memory[0].items():
        arrived = result.params[-1][key] - PROBLEM.initial[key]
        assert np.allclose(arrived + residual, sum(c[key] for c in changes))
        assert np.abs(residual).max() > 1e-3
    assert np.count_nonzero(ref.top_k(np.arange(10.0), 0.25)) == 3


def test_int8_faults_are_seen():
    x = np.array([0.0, 0.5, -127.0, 3.0, 64.25])
    right = np.array([0.0, 1.0, -127.0, 3.0, 64.0])
    assert ref.int8_faults(x, right) == []
    for index, value in [(1, 2.0), (1, 0.5), (0, 1.0), (2, -128.0)]:
        wrong = right.copy()
        wrong[index] = value
        assert ref.int8_faults(x, wrong)
    draws = np.floor(x + np.random.default_rng(0).random((400, 5)))
    assert ref.int8_bias(x, draws) < 5 < ref.int8_bias(x, np.ceil(draws * 0 + x))


def test_fedbuff_takes_stale_parameters_and_scales():
    result = ref.fedbuff(PROBLEM, [[(0, 0), (1, 0)], [(2, 1), (1, 0)]], RATE)
    stale = local_changes(PROBLEM, [2], PROBLEM.initial, RATE)[2]["encoders/s1/kernel"] / np.sqrt(2)
    moved_by = result.params[1]["encoders/s1/kernel"] - result.params[0]["encoders/s1/kernel"]
    assert np.allclose(moved_by, stale)


@pytest.mark.parametrize("weights", ["samples", "uniform"])
def test_corrected_clients_reach_the_pooled_optimum_of_quadratics(weights):
    problem = make_quadratics()
    best = quadratic_optimum(problem, weights)
    rng = np.random.default_rng(1)
    everybody = full_cohorts(problem, 300)
    some = [sorted(rng.choice(8, 4, replace=False).tolist()) for _ in range(600)]
    code = {"controls": "gradients", "drifts": "all"}
    for name, options in [("scaffold", {}), ("feddyn", {"alpha": 1.0}), ("feddc", code)]:
        for cohorts in (everybody, some):
            end = getattr(ref, name)(problem, cohorts, 0.1, weights, **options).params[-1]
            assert distance(end, best) < 1e-6, name
    assert distance(ref.feddc(problem, everybody * 4, 0.1, weights).params[-1], best) < 1e-3
    for name in ("fedavg", "fednova", "fedprox"):
        assert distance(getattr(ref, name)(problem, everybody, 0.1, weights).params[-1], best) > 0.1, name


def test_corrected_clients_reach_the_pooled_optimum_of_the_softmax_problem():
    best, cohorts = optimum(PROBLEM), full_cohorts(PROBLEM, 800)
    end = ref.scaffold(PROBLEM, cohorts, 0.3).params[-1]
    assert ref.stationary(PROBLEM, end) < 1e-6
    assert distance(end, best) < 1e-4
    assert distance(ref.feddyn(PROBLEM, cohorts, 0.3, alpha=0.3).params[-1], best) < 1e-4
    assert distance(ref.fedavg(PROBLEM, cohorts, 0.3).params[-1], best) > 0.05
