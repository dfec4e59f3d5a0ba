"""A sweep runs a grid, goes on after a kill, and refuses what is not its own."""

import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from federations import MemoryArchive, write_study
from jax.experimental.compilation_cache import compilation_cache

from mmfl_jax import Study
from mmfl_jax.cli import main
from mmfl_jax.commands import sweep
from mmfl_jax.errors import UserError
from mmfl_jax.runs import Stopped, grid, loop, sweeps
from mmfl_jax.study import load_study

BASE = Study.of(name="base")
NAMES = ["mf-batch_size=8-seed0", "mf-batch_size=16-seed0", "mf-batch_size=8-seed1", "mf-batch_size=16-seed1"]


def make(*vary, folds=(), seeds=1, base=BASE):
    return grid.make_grid(base, vary, folds, seeds)


def options(study, output, *more):
    return ["sweep", study, "--vary", "method=mf", "--vary", "batch-size=8,16", "--run-dir", str(output), *more]


def summaries(output):
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(output.glob("*/summary.json"))}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    options = {"rounds": 4, "checkpoint_every": 1, "evaluate_every": 2}
    return str(write_study(tmp_path_factory.mktemp("study"), **options))


@pytest.fixture(scope="module")
def whole(study, tmp_path_factory):
    """A sweep that nothing stopped."""
    output = tmp_path_factory.mktemp("sweep") / "whole"
    main(options(study, output, "--seeds", "2", "--quiet"))
    return output


def test_a_sweep_runs_every_combination_and_compares(whole, study, capsys):
    assert sorted(summaries(whole)) == sorted(NAMES)
    configs = [Study.from_json(whole / name / "config.json").training for name in NAMES]
    assert [(config.batch_size, config.seed) for config in configs] == [(8, 0), (16, 0), (8, 1), (16, 1)]
    rows = json.loads((whole / "comparison.json").read_text())
    assert [(row["name"], row["seeds"]) for row in rows] == [("mf-batch_size=8", [0, 1]), ("mf-batch_size=16", [0, 1])]
    assert rows[1]["against"]["scores"]["s1+s2"]["accuracy"]["n"] == 2
    assert (whole / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "**mf-batch_size=16**" in (whole / "comparison.md").read_text()
    assert any((whole / "cache").iterdir())  # the second seed's round is the first one's
    assert jax.config.values["jax_compilation_cache_dir"] is None
    # Again: nothing runs, all is told.
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/*")}
    main(options(study, whole, "--seeds", "2"))
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*/*")} == before
    out, err = capsys.readouterr()
    assert "Difference from mf-batch_size=8" in out
    assert err == ""


# Kills its process in the fourth round of the second run, when two checkpoints are whole.
KILLED = """
import os, signal, sys
from mmfl_jax import rounds as module
from mmfl_jax.cli import main

rounds, whole = [], module.Rounds.run_round

def run_round(self):
    rounds.append(self.study.name)
    if len(rounds) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(self)

module.Rounds.run_round = run_round
main(sys.argv[1:])
"""


def test_a_killed_sweep_goes_on_bit_exactly(whole, study, tmp_path, capsys):
    output = tmp_path / "killed"
    command = options(study, output, "--seeds", "2")
    killed = subprocess.run([sys.executable, "-c", KILLED, *command], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(summaries(output)) == [NAMES[0]]
    first = (output / NAMES[0] / "summary.json").stat().st_mtime_ns
    # What a kill before the first checkpoint leaves of the third run.
    third = output / NAMES[2]
    (third / "checkpoints" / "1.orbax-checkpoint-tmp-0").mkdir(parents=True)
    shutil.copy(whole / NAMES[2] / "config.json", third)
    (third / "federation.json.part").write_text("{")
    fourth = output / NAMES[3]  # and before it wrote its options
    fourth.mkdir()
    (fourth / "config.json.part").write_text("{")
    main(command)
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "took" not in line][1:] == [f"3/4 {NAMES[2]}", f"4/4 {NAMES[3]}"]
    assert said[0] in {f"2/4 {NAMES[1]} from round {r}" for r in (2, 3)}
    assert " left" in said[1]
    assert (output / NAMES[0] / "summary.json").stat().st_mtime_ns == first
    ends, unbroken = summaries(output), summaries(whole)
    assert {name: end["state_sha256"] for name, end in ends.items()} == {
        name: end["state_sha256"] for name, end in unbroken.items()
    }
    assert {name: end["evaluation"] for name, end in ends.items()} == {
        name: end["evaluation"] for name, end in unbroken.items()
    }


def test_another_grid_is_refused_unless_it_contains_the_first(study, whole, tmp_path):
    base = load_study(study)

    def open_with(*vary, folds=(), seeds=2, **changes):
        return grid.open_grid(output, make(*vary, folds=folds, seeds=seeds, base=base.replace(**changes)))

    output = tmp_path / "sweep"
    output.mkdir()
    shutil.copy(whole / "sweep.json", output)
    fields = ("method=mf", "batch_size=8,16")
    before = (output / "sweep.json").read_bytes()
    for call, message in (
        (lambda: open_with("method=mf", "batch_size=8"), r"--vary batch_size lacks 16, which the sweep in .* has"),
        (lambda: open_with("method=mf"), "--vary batch_size: the sweep in .* has this field"),
        (lambda: open_with(*fields, "width=8"), "--vary width: the sweep in .* does not have this field"),
        (lambda: open_with(*fields, folds=["test_split=0.2,0.3"]), "--folds test_split: .* does not have this field"),
        (lambda: open_with(*fields, seeds=1), "--seeds 1: the sweep in .* has 2"),
        (lambda: open_with(*fields, rounds=5), "--rounds 5: the sweep in .* was started with 4; give the same"),
        (lambda: open_with(*fields, seed=1), "--seed 1: the sweep in .* was started with 0"),
    ):
        with pytest.raises(UserError, match=message):
            call()
    assert (output / "sweep.json").read_bytes() == before
    # What is varied does not matter in the base.
    assert [s.name for s in open_with(*fields, batch_size=99)] == NAMES
    more = [s.name for s in open_with("method=mf,unified", "batch_size=16,8,32", seeds=3)]
    assert set(NAMES) < set(more)
    assert len(set(more)) == len(more) == 18


def test_a_directory_of_something_else_is_left_as_it_is(tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(UserError, match=r"exists and holds no sweep.json"):
        grid.open_grid(tmp_path, make("batch_size=8"))
    (tmp_path / "sweep.json").write_text('{"vary": {}}')
    with pytest.raises(UserError, match=r"sweep.json is not the record of a sweep"):
        grid.open_grid(tmp_path, make("batch_size=8"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "sweep.json"]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        (["batchsize=8"], "--vary batchsize: a study has no such field; did you mean batch_size?"),
        (["batch_size"], "--vary 'batch_size' has no values; give --vary FIELD=VALUE,VALUE"),
        (["batch_size=8,x"], "--vary batch_size='x': must be a whole number from 1 to"),
        (["batch_size=8,"], "--vary batch_size='': must be a whole number from 1 to"),
        (["client_learning_rate=nan"], "--vary client_learning_rate=nan: must be a finite number above 0"),
        (["flips=yes"], "--vary flips='yes': must be True or False"),
        (["batch_size=8,8"], "--vary batch_size: 8 is given twice"),
        (["client_learning_rate=0.1,1e-1"], "--vary client_learning_rate: 0.1 is given twice"),
        (["batch_size=8", "batch-size=16"], "--vary batch_size is given twice"),
        (["seed=1,2"], "--vary seed cannot be varied; --seeds says how many"),
        (["name=a"], "--vary name cannot be varied"),
    ],
)
def test_what_cannot_be_varied_is_named(vary, message):
    with pytest.raises(UserError) as caught:
        make(*vary)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_field_is_varied_or_averaged():
    with pytest.raises(UserError, match="--folds test_split: the field is varied too"):
        make("test_split=0.2", folds=["test_split=0.3"])
    with pytest.raises(UserError, match="--seeds must be at least 1, not 0"):
        make("batch_size=8", seeds=0)


def test_values_have_their_fields_types_and_runs_names_of_their_own(tmp_path):
    made = make("flips=true,False", "client_learning_rate=1e-3,2", "private=norm,", folds=["test_split=a/b:1,a_b_1"])
    studies = grid.open_grid(tmp_path / "new", made)
    assert [
        (s.training.flips, s.training.client_learning_rate, s.method.private, s.federation.test_split)
        for s in studies[:5]
    ] == [
        (True, 0.001, "norm", "a/b:1"),
        (True, 0.001, "norm", "a_b_1"),
        (True, 0.001, "", "a/b:1"),
        (True, 0.001, "", "a_b_1"),
        (True, 2.0, "norm", "a/b:1"),
    ]
    assert studies[0].name == "flips=true-client_learning_rate=0.001-norm-seed0-fold0"
    assert studies[3].name == "flips=true-client_learning_rate=0.001-private=-seed0-fold1"
    assert [s.name for s in grid.open_grid(tmp_path / "seeds", make(seeds=2))] == ["base-seed0", "base-seed1"]
    # Names that would be the same folder, or too long for one.
    clash = grid.open_grid(tmp_path / "clash", make(f"archive=../a:b,../a_b,../A_B,{'x' * 300}"))
    names = [study.name for study in clash]
    assert names[0] == "archive=.._a_b-seed0"
    assert len({name.casefold() for name in names}) == 4
    assert all(len(name) <= 120 and "/" not in name and not name.startswith(".") for name in names)
    again = grid.open_grid(tmp_path / "clash", make(f"archive={'x' * 300},../A_B,../a_b,../a:b"))
    assert {study.data.archive: study.name for study in again} == {study.data.archive: study.name for study in clash}


def test_a_failed_run_does_not_lose_the_others(study, tmp_path, capsys, request):
    output = tmp_path / "failed"
    mine = str(tmp_path / "mine")  # a folder that this process has kept compiled programs in before
    jax.config.update("jax_compilation_cache_dir", mine)
    request.addfinalizer(
        lambda: (jax.config.update("jax_compilation_cache_dir", None), compilation_cache.reset_cache())
    )
    jax.jit(lambda x: x + 1)(1.0)
    with pytest.raises(SystemExit) as left:
        main(["sweep", study, "--vary", "clients=97,4", "--run-dir", str(output), "--rounds", "1"])
    assert left.value.code == 2
    assert list(summaries(output)) == ["clients=4-seed0"]
    assert any((output / "cache").iterdir())
    assert jax.config.values["jax_compilation_cache_dir"] == mine
    out, err = capsys.readouterr()
    assert "clients=4" in out
    assert [row["name"] for row in json.loads((output / "comparison.json").read_text())] == ["clients=4-seed0"]
    lines = err.splitlines()
    assert (
        lines[-2] == "failed: clients=97-seed0: --clients 97 is more than the 96 training samples: some would have none"
    )
    assert lines[-1] == "mmfl-jax: 1 of 2 runs failed, as told above; the same command tries them again"


def test_images_are_read_once_for_all_runs_of_one_archive(monkeypatch):
    opened, read = [], []

    class Told(MemoryArchive):
        def read(self, modality, indices):
            read.append(modality)
            return super().read(modality, indices)

    def open_archive(study):
        opened.append(study.training.seed)
        return Told(seed=study.training.seed)

    monkeypatch.setattr("mmfl_jax.study.build.open_archive", open_archive)
    kept = sweeps._Archives()
    rows = np.array([5, 3, 3])
    for _ in range(2):
        for seed in (0, 1):
            archive = kept.of(BASE.replace(seed=seed))
            for m, images in MemoryArchive(seed=seed).images.items():
                np.testing.assert_array_equal(archive.read(m, rows), images[rows])
    assert opened == [0, 1]
    assert read == ["s1", "s2", "s1", "s2"]
    monkeypatch.setattr(sweeps, "_KEEP", archive.image_bytes)
    assert kept.of(BASE.replace(seed=1)) is archive  # and the other has gone
    kept.of(BASE.replace(seed=0))
    assert opened == [0, 1, 0]


def test_a_directory_that_the_sweep_did_not_make_is_kept(study, tmp_path, capsys):
    base = load_study(study).replace(name="run", rounds=1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="1 of 1 runs failed"):
        sweep([base], tmp_path)
    assert "it holds thesis.tex; sweep in a new directory" in capsys.readouterr().err
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_a_finished_run_of_another_study_is_not_taken_for_this_one(study, tmp_path, capsys):
    base = load_study(study).replace(name="run", rounds=1)
    sweep([base], tmp_path, quiet=True)
    for changes, message in (
        ({"rounds": 2}, "has finished with rounds 1, not 2"),
        ({"batch_size": 8}, "batch_size 16, not 8"),
    ):
        with pytest.raises(UserError, match="1 of 1 runs failed"):
            sweep([base.replace(**changes)], tmp_path)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("when", ["in a round", "before the rounds"])
def test_a_stopped_sweep_says_how_to_go_on(study, tmp_path, monkeypatch, when):
    studies = [load_study(study).replace(name="run0", checkpoint_every=100)]
    # A shell without job control starts what goes on in its background with the signal ignored.
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_DFL)
    if when == "in a round":
        begin = loop._Loop.round

        def round(self, last):
            os.kill(os.getpid(), signal.SIGINT)
            begin(self, last)

        monkeypatch.setattr(loop._Loop, "round", round)
        where = "after round 1 of 4 of run0, run 1 of 1"
    else:

        def stop(run_dir):
            raise KeyboardInterrupt

        monkeypatch.setattr(sweeps, "read_summary", stop)
        where = "in run0, run 1 of 1"
    with pytest.raises(Stopped) as caught:
        sweep(studies, tmp_path, quiet=True)
    assert str(caught.value) == f"stopped by SIGINT {where}; the same command continues"
    assert caught.value.signal == signal.SIGINT
    monkeypatch.undo()
    assert [row["name"] for row in sweep(studies, tmp_path, quiet=True)] == ["run0"]
    rounds = [json.loads(line) for line in (tmp_path / "run0" / "metrics.jsonl").read_text().splitlines()]
    assert [row["round"] for row in rounds if row["kind"] == "round"] == [1, 2, 3, 4]


def test_sweep_needs_a_study_and_a_directory(study, capsys):
    for arguments, message in (
        (["sweep", "--vary", "batch_size=8"], "sweep needs a STUDY first"),
        (["sweep", study, "--vary", "batch_size=8"], "mmfl-jax sweep needs --run-dir"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 2
        assert message in capsys.readouterr().err
