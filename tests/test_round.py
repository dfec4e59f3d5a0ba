"""One round equals the Python-loop reference, however its clients are laid out."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import ragged_federation, simulation

from mmfl_jax.engine.client import Facts
from mmfl_jax.engine.data import Samples
from mmfl_jax.engine.mesh import AXIS, client_mesh
from mmfl_jax.engine.reference import _steps_of, reference_round
from mmfl_jax.engine.round import finite, make_round, train_device
from mmfl_jax.engine.server import finish
from mmfl_jax.federation.placement import Placement

SIZES = [1, 3, 17, 1000, 8, 40]
SINGLE = [("s1",), ("s2",), ("s1",), ("s2",), ("s2",), ("s1",)]
MIXED = [("s1",), ("s1", "s2"), ("s1", "s2"), ("s1",)]


def reference_state(sim, rounds=1):
    state = sim.state
    for number in range(rounds):
        key = jax.random.key(sim.study.training.seed)
        cohort = sim.cohort(number)
        state = reference_round(sim.program, state, host(sim), cohort.members, cohort.steps, key, cohort.delays)
    return jax.tree.map(np.array, state)  # a copy: the run donates what both share


def host(sim):
    """Return the samples of a simulation as one device holds them."""
    placement = Placement.of(sim._steps, [group.sizes for group in sim._clients.groups], 1)
    calibration = sim.study.method.logit_calibration
    samples = Samples(sim._clients, sim.normalizer, placement, places=sim.program.by_place, calibration=calibration)
    return samples.resident(client_mesh(1))


def in_order(sim):
    """Return a simulation's state in host memory, what clients keep in the order of the federation."""
    state = jax.device_get(sim.state)
    rows = [homes.positions for homes in sim.placement.groups]
    clients = [jax.tree.map(lambda v, r=r: v[r], kept) for r, kept in zip(rows, state.clients)]
    return dataclasses.replace(state, clients=tuple(clients))


def assert_close(state, expected, relative=1e-5, kept=None):
    """Compare states; ``kept`` is the tolerance of what algorithms keep: a control is a change divided by a rate."""
    for field in ("params", "stats", "algorithm", "objectives", "clients"):
        got, want = getattr(state, field), getattr(expected, field)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            # A bias before a normalisation has no gradient but rounding: its scale is that of its neighbours.
            scale = max(np.abs(b).max(initial=0), 0.1)
            bound = kept if kept and field in ("algorithm", "clients") else relative
            assert np.abs(a - b).max(initial=0) <= bound * scale, f"{field}{jax.tree_util.keystr(path)}"


def shuffles_in_gathers(compiled):
    """Return how many instructions of the shuffle stand in a computation that gathers rows."""
    bodies = re.split(r"^\S.*\{$", compiled.as_text(), flags=re.MULTILINE)
    return sum(body.count(" shift-right-logical(") for body in bodies if " gather(" in body)


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="XLA of before takes the barrier out, and copes")
def test_the_shuffle_is_drawn_apart_from_the_gathers():
    # Sixteen rounds of it within each gather: LLVM took over twenty minutes for a step.
    sim = simulation(ragged_federation(SIZES, SINGLE, seed=1), chunk_size=4, method="mf")
    first, step_of, _ = _steps_of(sim.program, 0)
    data, kept = host(sim)[0], jax.tree.map(lambda v: v[0], sim.state.clients[0])
    facts = Facts(jnp.float32(3), jnp.int32(2), jnp.uint32(3), jnp.int32(0), jnp.int32(0), None)
    now = jax.eval_shape(first, sim.state, data, kept, facts, 0)
    compiled = step_of.lower(sim.state, data, kept, facts, 0, now, jnp.int32(0)).compile()
    assert compiled.as_text().count(" shift-right-logical(") > 16
    assert shuffles_in_gathers(compiled) == 0


@pytest.mark.parametrize(
    ("chunk_sizes", "options"),
    [
        ([1, 4, 6], {"method": "mf+fw+mim", "whitening_where": "all"}),
        ([4], {"method": "mf+fw+mim", "private": "norm", "algorithm": "fedavgm", "weighting": "uniform"}),
        ([1], {"method": "mf"}),
        ([6], {"method": "unified", "norm": "group", "logit_calibration": "relative"}),
        ([4], {"method": "separate", "algorithm": "fedprox:0.1"}),
    ],
    ids=["mf+fw+mim", "private", "mf", "unified", "separate"],
)
def test_round_equals_the_python_loop(chunk_sizes, options):
    # Of these samples none lies where rounding decides the sign of a ReLU's input.
    federation = ragged_federation(SIZES, SINGLE, seed=1)
    expected = None
    for chunk_size in chunk_sizes:
        sim = simulation(federation, chunk_size=chunk_size, **options)
        # The loop knows no chunks: what it gives for the first size is right for all.
        expected = expected or reference_state(sim)
        sim.run_round()
        assert_close(sim.state, expected)
        assert shuffles_in_gathers(sim.execution.compiled) == 0


@pytest.mark.parametrize("source", ["pairs", "places", "prototypes"])
def test_round_equals_the_python_loop_for_groups_of_several_modalities(source):
    federation = ragged_federation([5, 9, 12, 30], MIXED)
    if source == "places":  # the same places seen by owners of different sensors
        memory = federation.archive
        held = [
            ("radar", ("s1",), np.arange(20)),
            ("optical", ("s2",), np.arange(20)),
            ("both", ("s1", "s2"), np.arange(20, 30)),
        ]
        federation = type(federation).of(memory, held, federation.test)
    sim = simulation(federation, method="mf+mim", mim_positives=source, chunk_size=2, mim_weight=0.5)
    expected = reference_state(sim, rounds=2)
    first = sim.run_round()
    second = sim.run_round()
    assert second["mim_loss"] > 0
    assert (first["mim_loss"] > 0) == (source == "pairs")  # nothing is relayed before the first round has ended
    assert_close(sim.state, expected, 3e-5)


def test_images_with_batch_statistics_equal_the_python_loop_though_nobody_holds_a_modality():
    federation = ragged_federation([3, 9], [("s1",), ("s1",)], shapes={"s1": (8, 8, 2), "s2": (8, 8, 3)})
    sim = simulation(federation, method="mf+fw", encoder="resnet6")
    expected = reference_state(sim)
    sim.run_round()
    assert_close(sim.state, expected)


@pytest.mark.parametrize(
    ("chunk_size", "options"),
    [
        (2, {"method": "mf+mim", "class_weights": "balanced", "dice_weight": 0.5, "logit_calibration": "relative"}),
        (1, {"method": "mf+mim", "mim_level": "pixel", "decoder": "fpn"}),
        (2, {"method": "separate", "algorithm": "scaffold", "flips": True, "crop": 6}),
    ],
    ids=["mf+mim", "pixels", "separate"],
)
def test_labels_by_pixel_equal_the_python_loop(chunk_size, options):
    federation = ragged_federation([2, 5, 9], [("s1",), ("s2",), ("s1",)], task="pixel")
    sim = simulation(federation, **{"encoder": "resnet6", "batch_size": 4, "chunk_size": chunk_size, **options})
    expected = reference_state(sim, rounds=2)
    sim.run_round()
    sim.run_round()
    assert_close(sim.state, expected, 1e-4)
    assert 0 < sim.evaluate()["s1+s2"]["miou"] <= 1


def test_streamed_equals_resident(monkeypatch):
    shapes = {"s1": (512, 2), "s2": (512, 3)}
    federation = ragged_federation([40, 30, 50, 60, 10, 20] * 4, SINGLE * 4, shapes=shapes, seed=1)  # as above
    options = {"method": "mf+fw+mim", "batch_size": 16}
    resident, streamed = simulation(federation, **options), simulation(federation, stream_mb=2, **options)
    waves = list(streamed.execution._waves(streamed.cohort(0)))
    assert len(waves) > 2
    assert all(places.size for wave in waves[:-1] for places in wave)  # all groups end together
    load, loads = streamed.execution._load, []
    monkeypatch.setattr(streamed.execution, "_load", lambda *wave: loads.append(1) or load(*wave))
    streamed.compile()
    loads.clear()
    for sim in (resident, streamed):
        rows = [sim.run_round() for _ in range(2)]
        assert rows[0]["client_steps"] == resident._steps[0].sum() + resident._steps[1].sum()
    # The first wave of a round is read while the round before ends, and once.
    streamed.execution._reader.shutdown()  # waits for the read that the last round began
    assert len(loads) == 2 * len(waves) + 1
    assert 0 <= rows[1]["device_waiting"] < 1
    assert_close(streamed.state, resident.state, 2e-5)


def test_pmap_runs_the_same_round():
    sim = simulation(ragged_federation(SIZES, SINGLE), method="mf+fw+mim", chunk_size=2)
    plans, _ = sim.execution.planner.lay(sim.cohort(0).members)
    most = tuple(sim.execution.planner.most)
    key = jax.random.fold_in(jax.random.key(0), 0)
    device = jax.pmap(
        lambda state, data, plans, key: train_device(sim.program, state, data, plans, key, most),
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        devices=jax.devices()[:1],
    )
    kept, sums = device(sim.state, sim.execution.data, plans, key)
    state, _ = finish(sim.program, sim.state, jax.tree.map(lambda x: x[0], sums), jax.random.key(0))
    assert jax.tree.leaves(kept) == []
    sim.run_round()
    assert_close(state, sim.state)


def test_round_compiles_once_though_cohorts_differ():
    sim = simulation(ragged_federation(SIZES, SINGLE), method="mf+fw+mim", participation="3")
    key = jax.random.key(0)
    function, state, seen = make_round(sim.program, sim.mesh, (3, 3)), sim.state, set()
    for number in range(5):
        cohort = sim.cohort(number)
        seen.add(tuple(map(len, cohort.members)))
        plans = sim.execution._lay(cohort).placed
        state, _ = function(state, sim.execution.data, plans, key)
    assert len(seen) > 1  # groups came with different numbers of clients
    assert function._cache_size() == 1


def test_one_value_that_is_not_finite_is_found_wherever_it_stands():
    shapes = {"scalar": (), "bias": (5,), "dense": (3, 4), "kernel": (3, 3, 2, 4), "empty": (2, 0)}
    holds = jax.jit(lambda params: finite((params, {"mean": params["bias"]})))
    large = {name: np.full(shape, -3e38, np.float32) for name, shape in shapes.items()}
    assert holds(large)  # neither sums nor products overflow
    for name in set(shapes) - {"empty"}:
        for wrong in (np.nan, np.inf, -np.inf):
            one = large[name].copy()
            one.reshape(-1)[-1] = wrong
            assert not holds({**large, name: one}), (name, wrong)


def test_client_with_an_update_that_is_not_finite_is_left_out_and_counted():
    federation = ragged_federation(SIZES, SINGLE)
    sim = simulation(federation, method="mf+fw+mim", chunk_size=3)
    begins, sizes = sim.federation.groups[0].offsets, sim.federation.groups[0].sizes
    client = 1  # of the group s1
    images = sim.execution.data[0].images["s1"]
    poisoned = images.values.at[begins[client] : begins[client] + sizes[client]].set(np.nan)
    poisoned = dataclasses.replace(images, values=poisoned)
    data = sim.execution.data
    sim.execution.data = (type(data[0])(**{**vars(data[0]), "images": {"s1": poisoned}}), data[1])
    everybody = sim.cohort(0).members
    state = sim.state
    without = [np.delete(everybody[0], client), everybody[1]]
    expected = reference_round(
        sim.program, state, host(sim), without, [s[m] for s, m in zip(sim._steps, without)], jax.random.key(0)
    )
    row = sim.run_round()
    assert row["skipped_clients"] == 1
    assert np.isfinite(row["loss"])
    assert_close(sim.state, expected)


def test_modality_nobody_in_the_cohort_holds_stays():
    sim = simulation(ragged_federation([8, 8, 8], [("s1",), ("s2",), ("s1",)]), method="mf", algorithm="fedadam:rate=1")
    before = jax.device_get(sim.state.params)
    everybody = sim.cohort(0)
    sim.cohort = lambda number: everybody.part([np.array([0]), np.array([], np.int64)])
    sim.run_round()
    for name, value in sim.state.params.items():
        same = np.array_equal(before[name], value)
        assert same == name.startswith("encoders/s2"), name


def test_memory_does_not_grow_with_the_cohort():
    def temporary_bytes(clients):
        federation = ragged_federation([4] * clients, [("s1",), ("s2",)] * (clients // 2))
        sim = simulation(federation, method="mf+fw+mim", chunk_size=2, width=64)
        sim.compile()
        return sim.execution.compiled.memory_analysis().temp_size_in_bytes

    small, large = temporary_bytes(4), temporary_bytes(64)
    # A few integers a client (its place in the plan) are all that may be added.
    assert large - small < 60 * 64
