"""A stopped run goes on as if it had never been stopped."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from federations import ragged_federation, simulation, write_study

from mmfl_jax.cli import main
from mmfl_jax.errors import UserError
from mmfl_jax.runs import load
from mmfl_jax.runs.checkpoints import Checkpoints

# What a resumed run must bring along: private variables, prototypes, the server's momentum, each round's cohort.
OPTIONS = {
    "method": "mf+mim",
    "private": "norm",
    "algorithm": "fedavgm",
    "participation": "3",
    "evaluate_every": 2,
    "checkpoint_every": 1,
}
ROUNDS = 4


@pytest.fixture(scope="module")
def federation():
    return ragged_federation([20, 9, 30, 14], [("s1",), ("s2",), ("s2",), ("s1",)])


def made(federation, **options):
    return simulation(federation, **{**OPTIONS, "rounds": ROUNDS, **options})


@pytest.fixture(scope="module")
def whole(federation, tmp_path_factory):
    """An unbroken run: its directory, summary and simulation."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    sim = made(federation)
    return run_dir, sim.run(run_dir), sim


def lines(run_dir, kind):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def test_resumed_run_is_bit_exact(federation, whole, tmp_path):
    run_dir = tmp_path / "run"
    made(federation, rounds=2).run(run_dir)
    # What a kill leaves behind: rounds after the last checkpoint, and half a line.
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(lines(run_dir, "round")[-1] | {"round": 3, "bytes_up": 1}) + '\n{"kind": "rou')
    resumed = made(federation)
    summary = resumed.run(run_dir, resume=True)
    _, expected, unbroken = whole
    assert summary["state_sha256"] == expected["state_sha256"]
    assert summary["evaluation"] == expected["evaluation"]
    assert summary["communication"]["total_bytes"] == expected["communication"]["total_bytes"]
    for field in ("stats", "objectives", "clients", "algorithm"):
        np.testing.assert_equal(*[_numpy(getattr(sim.state, field)) for sim in (resumed, unbroken)])
    assert [row["round"] for row in lines(run_dir, "round")] == [1, 2, 3, 4]
    assert [row["round"] for row in lines(run_dir, "evaluation")] == [0, 1, 2, 3, 4]  # at every checkpoint too
    losses = [[row["loss"] for row in lines(folder, "round")] for folder in (run_dir, whole[0])]
    assert losses[0] == losses[1]


def _numpy(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_last_and_best_checkpoints_are_kept(federation, tmp_path):
    sim, checkpoints = made(federation), Checkpoints(tmp_path)
    for number, score in enumerate([0.1, 0.9, 0.3, 0.4, 0.5], start=1):
        checkpoints.save(number, sim.state, score)
        checkpoints.save(number, sim.state, score)  # a stopped round may be saved twice; the first stands
    checkpoints.close()
    reopened = Checkpoints(tmp_path)
    assert reopened.rounds() == [2, 4, 5]
    assert reopened.best() == 2
    assert reopened.restore(sim.state)[0] == 5
    assert reopened.restore(sim.state, 2)[0] == 2
    with pytest.raises(UserError, match=r"holds no checkpoint of round 3; there are \[2, 4, 5\]"):
        reopened.restore(sim.state, 3)
    reopened.close()


def test_the_best_checkpoint_is_that_of_validation_samples_whatever_the_test_says(federation, tmp_path):
    samples = np.arange(len(federation.archive))
    with_validation = dataclasses.replace(federation, validation=samples[-5:], test=samples[-20:-5])
    sim = made(with_validation, checkpoint_every=1, evaluate_every=1)
    chosen = {1: 0.1, 2: 0.7, 3: 0.3, 4: 0.2}
    score = lambda sign: {"s1+s2": {"map": 0.5 + sign * chosen.get(sim.round_number, 0.0), "f1_micro": 0.5}}
    sim.evaluate, sim.evaluate_validation = lambda: score(-1), lambda: score(1)
    assert sim.run(tmp_path / "run")["best_round"] == 2
    assert load(tmp_path / "run", with_validation, best=True).round_number == 2
    assert load(tmp_path / "run", with_validation).round_number == 4


def test_without_validation_samples_no_checkpoint_is_the_best(federation, whole):
    assert whole[1]["best_round"] is None
    assert sorted(path.name for path in (whole[0] / "checkpoints").iterdir()) == ["3", "4"]
    with pytest.raises(UserError, match="has no validation samples to choose a checkpoint by; take the last, or run"):
        load(whole[0], federation, best=True)


def test_resume_of_a_finished_run_only_writes_its_summary_again(federation, whole):
    run_dir, expected, _ = whole
    before = (run_dir / "metrics.jsonl").read_text()
    summary = made(federation).run(run_dir, resume=True)
    assert summary["state_sha256"] == expected["state_sha256"]
    assert summary["evaluation"] == expected["evaluation"]
    assert (run_dir / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, r"--resume: .*config.json was run with seed 0, not 1; give the same options"),
        ({"method": "mf"}, r"was run with method 'mf\+mim', not 'mf'"),
        ({"learning_rate_schedule": "cosine"}, "was run with learning_rate_schedule 'constant', not 'cosine'"),
        ({"rounds": 3}, "has done 4 rounds already; give --rounds 4 or more"),
    ],
)
def test_resume_with_another_study(federation, whole, options, message):
    run_dir = whole[0]
    before = {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=message):
        made(federation, **options).run(run_dir, resume=True)
    assert {path: path.read_bytes() for path in run_dir.iterdir() if path.is_file()} == before


def test_without_a_checkpoint_a_run_starts_again(federation, whole, tmp_path):
    shutil.copy(whole[0] / "config.json", tmp_path)
    (tmp_path / "metrics.jsonl").write_text((whole[0] / "metrics.jsonl").read_text()[:-9])  # of a run killed early
    with pytest.warns(UserWarning, match="has no checkpoint; the run starts from round 0 again"):
        assert made(federation).run(tmp_path, resume=True)["state_sha256"] == whole[1]["state_sha256"]
    assert [row["round"] for row in lines(tmp_path, "round")] == [1, 2, 3, 4]
    assert [row["round"] for row in lines(tmp_path, "evaluation")] == [0, 1, 2, 3, 4]


def test_resume_of_what_is_no_run(federation, tmp_path):
    with pytest.raises(UserError, match=r"config.json does not exist; is .* a run directory\?"):
        made(federation).run(tmp_path / "elsewhere", resume=True)
    assert not (tmp_path / "elsewhere").exists()


def truncate(folder):
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


ONE = rf"checkpoint .*/{ROUNDS} cannot be read .*; delete it to resume from round 3"
SOME = "checkpoints in .*/checkpoints cannot be read .*; delete the newest of them to resume from the one before"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda last: truncate(last / "default"), ONE),
        (lambda last: shutil.rmtree(last / "default"), ONE),
        (lambda last: truncate(last), SOME),
    ],
    ids=["truncated arrays", "no arrays", "everything truncated"],
)
def test_damaged_checkpoint_is_one_line_and_the_one_before_it_still_good(federation, whole, tmp_path, damage, message):
    run_dir = tmp_path / "run"
    shutil.copytree(whole[0], run_dir)
    last = run_dir / "checkpoints" / str(ROUNDS)
    damage(last)
    with pytest.raises(UserError, match=message):
        made(federation).run(run_dir, resume=True)
    shutil.rmtree(last)
    checkpoints = Checkpoints(run_dir / "checkpoints")
    assert checkpoints.restore(made(federation).state)[0] == ROUNDS - 1
    checkpoints.close()


def started(study, run_dir, *options):
    """Start a run in a process of its own, and wait until it has done some rounds."""
    call = [sys.executable, "-c", "from mmfl_jax.cli import main; main()", "run", str(study)]
    call += ["--run-dir", str(run_dir), "--rounds", "100000", "--quiet", *options]
    call += ["--compilation-cache", str(study.parent / "cache")]
    enough = done(run_dir) + 5
    process = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while done(run_dir) < enough:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def done(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text().count('"kind": "round"') if path.exists() else 0


def test_killed_in_a_save_and_stopped_by_a_signal_a_run_ends_where_an_unbroken_one_does(tmp_path):
    study = write_study(tmp_path, **{**OPTIONS, "method": "mf", "evaluate_every": 100000})
    run_dir = tmp_path / "run"
    process = started(study, run_dir)
    try:
        # Orbax writes into a folder of this name, and renames it when all is there.
        while not any("orbax-checkpoint-tmp" in name for name in os.listdir(run_dir / "checkpoints")):
            pass
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    saved = max(int(path.name) for path in (run_dir / "checkpoints").iterdir() if path.name.isdecimal())

    process = started(study, run_dir, "--resume")
    process.send_signal(signal.SIGTERM)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    stopped = done(run_dir)
    expected = (
        f"mmfl-jax: stopped by SIGTERM after round {stopped} of 100000; continue with --resume --run-dir {run_dir}"
    )
    assert message.splitlines()[-1] == expected
    assert stopped > saved

    rounds = ["--rounds", str(stopped + 2), "--quiet"]
    main(["run", str(study), "--run-dir", str(run_dir), "--resume", *rounds])
    main(["run", str(study), "--run-dir", str(tmp_path / "unbroken"), "--checkpoint-every", "100000", *rounds])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (run_dir, tmp_path / "unbroken")]
    assert summaries[0]["state_sha256"] == summaries[1]["state_sha256"]
    assert [row["round"] for row in lines(run_dir, "round")] == list(range(1, stopped + 3))
    assert not any("tmp" in name for name in os.listdir(run_dir / "checkpoints"))


FULL_DISK = """
import resource, sys
from mmfl_jax import cli
from mmfl_jax.runs.checkpoints import Checkpoints

plain = Checkpoints.save
def save(self, round_number, *rest):
    if round_number == 4:
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    plain(self, round_number, *rest)
Checkpoints.save = save
cli.main(sys.argv[1:])
"""


def test_a_full_disk_is_one_line(tmp_path):
    study, run_dir = write_study(tmp_path, algorithm="scaffold", checkpoint_every=2), tmp_path / "run"
    call = [sys.executable, "-c", FULL_DISK, "run", str(study), "--run-dir", str(run_dir), "--quiet", "--rounds", "6"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr  # of all the arrays that cannot be written, and whose threads would say so
    assert lines[0].startswith(f"mmfl-jax: {run_dir / 'checkpoints'}: a checkpoint cannot be written (File too large)")
    assert "round 2 is kept" in lines[0]
