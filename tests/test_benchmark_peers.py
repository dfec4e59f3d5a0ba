"""The engine's side of benchmarks/peers.py: what the peers are compared with is what the engine does."""

import dataclasses
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS / "peer_workers")]

import engine  # noqa: E402
import peers  # noqa: E402
import protocol  # noqa: E402
import workloads  # noqa: E402

from mmfl_jax.engine.reference import reference_round  # noqa: E402
from mmfl_jax.study.build import algorithm_of, program_of  # noqa: E402


@pytest.fixture
def task(tmp_path):
    work = workloads.workload("c", clients=3)
    workloads.write(work, tmp_path)
    return protocol.Task(work, "auto", tmp_path, 1)


@pytest.mark.parametrize("name", workloads.WORKLOADS)
def test_weights_have_the_engines_names_and_shapes(name):
    work = workloads.workload(name, clients=len(workloads.WORKLOADS[name].shapes), steps=1)
    make = (lambda held: engine.CNN(work)) if work.model == "cnn" else None
    study = engine.study(work)
    federation = engine.federation(work, workloads.data(work))
    program, _ = program_of(study, federation, algorithm_of(study), make)
    kinds = program.template.params, program.template.stats
    shapes = {n: variable.get_value().shape for kind in kinds for n, (_, variable) in kind.items()}
    assert shapes == workloads.variable_shapes(work)
    assert {n for n in shapes if workloads.is_moment(n)} == set(program.template.stats)


def numpy_update(work, folder):
    """Return the mean change of the MLP's weights in NumPy float64, from the files that every peer reads."""
    data, order = workloads.read(folder, "data"), workloads.positions(folder)
    start = {n: v.astype(np.float64) for n, v in workloads.read(folder, "initial").items()}
    layers = ["encoders/series/first", "encoders/series/second", "head"]
    total = {n: np.zeros_like(v) for n, v in start.items()}
    for client in range(work.clients):
        local = dict(start)
        for rows in order[client]:
            inputs = [data["images/series"][client][rows].reshape(work.batch, -1).astype(np.float64)]
            for path in layers:
                y = inputs[-1] @ local[f"{path}/kernel"] + local[f"{path}/bias"]
                inputs.append(y if path == "head" else np.maximum(y, 0))
            shares = np.exp(inputs[-1]) / np.exp(inputs[-1]).sum(axis=1, keepdims=True)
            gradient = (shares - data["labels"][client][rows]) / work.batch
            changed = dict(local)
            for path, x in zip(layers[::-1], inputs[-2::-1]):
                changed[f"{path}/kernel"] = local[f"{path}/kernel"] - work.rate * x.T @ gradient
                changed[f"{path}/bias"] = local[f"{path}/bias"] - work.rate * gradient.sum(axis=0)
                gradient = gradient @ local[f"{path}/kernel"].T * (x > 0)
            local = changed
        total = {n: t + (local[n] - start[n]) / work.clients for n, t in total.items()}
    return total


def test_update_is_that_of_the_reference_and_of_the_files(task):
    made = engine.simulation(task)
    engine.write_positions(made, task)
    groups = made.federation.groups
    members, steps = [np.arange(len(g.ids)) for g in groups], [np.full(len(g.ids), task.work.steps) for g in groups]
    expected = reference_round(
        made.program, made.state, made.execution.data, members, steps, jax.random.key(made.study.training.seed)
    )
    made.run_round()
    update, start = engine.variables(made), workloads.read(task.folder, "initial")
    by_hand = numpy_update(task.work, task.folder)
    for name, value in expected.params.items():
        np.testing.assert_allclose(update[name], value, rtol=0, atol=1e-7)
        scale = np.abs(by_hand[name]).max()
        np.testing.assert_allclose((update[name] - start[name]) / scale, by_hand[name] / scale, rtol=0, atol=1e-4)


def test_first_round_can_be_repeated_from_other_weights(task):
    made = engine.simulation(task)
    made.run_round()
    first = engine.variables(made)
    weights = workloads.read(task.folder, "initial")
    engine.start(made, task, weights)
    made.run_round()
    again = engine.variables(made)
    assert all((first[n] == again[n]).all() for n in first)
    engine.start(made, task, workloads.perturbed(weights))
    made.run_round()
    moved = engine.variables(made)
    assert any((first[n] != moved[n]).any() for n in first)


def test_prototypes_are_all_known_at_the_start():
    keys = workloads.prototypes(workloads.WORKLOADS["b"])
    assert {m: k.shape for m, k in keys.items()} == {"s1": (19, 64), "s2": (19, 64)}
    for k in keys.values():
        np.testing.assert_allclose(np.linalg.norm(k, axis=1), 1, atol=1e-6)


def test_clients_are_dealt_to_modalities():
    work = workloads.WORKLOADS["b"]
    assert work.clients_of("s1") == list(range(8))
    assert work.clients_of("s2") == list(range(8, 16))


def test_difference_sees_another_update_and_one_that_is_missing(task, tmp_path):
    start = workloads.read(task.folder, "initial")
    ours = {n: v + np.float32(0.01) for n, v in start.items()}
    theirs = {**ours, "head/bias": ours["head/bias"] + np.float32(0.005)}
    missing = {n: v for n, v in ours.items() if n != "head/bias"}
    for name, arrays in {"ours": ours, "theirs": theirs, "missing": missing}.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
    gap = lambda name: peers.difference(task.work, tmp_path, f"{tmp_path}/ours.npz", f"{tmp_path}/{name}.npz")
    assert gap("ours")["parameters"] == 0
    assert gap("theirs")["parameters"] == pytest.approx(0.5, rel=1e-4)
    assert gap("missing")["parameters"] == np.inf


def test_a_row_of_another_update_says_so(task, tmp_path):
    start = workloads.read(task.folder, "initial")
    for name, factor in {"ours": 0.01, "theirs": 0.02, "rounded": 0.01}.items():
        np.savez(tmp_path / f"{name}.npz", **{n: v + np.float32(factor) for n, v in start.items()})
    worker = peers.Worker("pytorch", "threads", None, tmp_path, {"update": f"{tmp_path}/theirs.npz"}, [0.3, 0.1, 0.2])
    found = peers.row(task.work, tmp_path, worker, f"{tmp_path}/ours.npz")
    assert not found["same"]
    assert found["ms_per_client_step"] == pytest.approx(200 / 6, rel=1e-3)
    worker = dataclasses.replace(worker, told={"update": f"{tmp_path}/ours.npz"})
    assert peers.row(task.work, tmp_path, worker, f"{tmp_path}/ours.npz")["same"]


def test_every_peer_has_a_worker_and_an_environment():
    for peer, script in peers.SCRIPTS.items():
        assert (peers.WORKERS / f"{script}.py").exists()
        assert peer == "engine" or peers.REQUIREMENTS[peer]
        for name in workloads.WORKLOADS:
            assert set(peers.variants(peer, name, 1)) <= set(peers.variants(peer, name, 2))


def test_a_worker_that_dies_is_a_row_with_its_last_words(tmp_path, monkeypatch):
    (tmp_path / "dying.py").write_text("import sys\nsys.exit('no such thing')\n")
    monkeypatch.setattr(peers, "WORKERS", tmp_path)
    monkeypatch.setitem(peers.SCRIPTS, "pytorch", "dying")
    worker = peers.Worker.start("pytorch", "threads", sys.executable, tmp_path, ["c"])
    worker.stop()
    assert "no such thing" in peers.row(workloads.WORKLOADS["c"], tmp_path, worker, None)["error"]


def test_labels_are_one_hot_or_several():
    one = workloads.data(workloads.workload("c", clients=2))["labels"]
    assert (one.sum(axis=-1) == 1).all()
    several = workloads.data(workloads.workload("b", clients=2, steps=1))["labels"]
    assert set(np.unique(several)) == {0, 1}
