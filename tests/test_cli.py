"""The command line: the run directory it writes, and one clear line for every mistake."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
from federations import write_study

from mmfl_jax import Study
from mmfl_jax.cli import main

COST = {"flops_per_round", "compile_seconds", "seconds_per_round", "padding_waste", "peak_memory_bytes"}
COMMUNICATION = {"bytes_up_per_client", "bytes_down_per_client", "total_bytes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def study(folder):
    return str(write_study(folder))


@pytest.fixture(scope="module")
def run_dir(folder, study):
    """The directory of a finished run."""
    path = folder / "run"
    main(["run", study, "--run-dir", str(path), "--evaluate-clients", "--quiet"])
    return path


def leave(capsys, *arguments):
    """Run the command line to its mistake; return the exit code and what it said on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, capsys.readouterr().err


def assert_one_line(capsys, message, *arguments):
    code, said = leave(capsys, *arguments)
    assert code == 2
    assert len(said.splitlines()) == 1
    assert said.startswith("mmfl-jax: ")
    assert message in said


def test_run_directory_holds_what_is_promised(run_dir):
    assert {path.name for path in run_dir.iterdir()} == {
        "config.json",
        "federation.json",
        "metrics.jsonl",
        "summary.json",
        "checkpoints",
        "report.html",
        "figures",
    }
    assert list((run_dir / "figures").glob("*.png"))
    config = Study.from_json(run_dir / "config.json")
    assert (config.name, config.training.rounds, config.method.model.width) == ("small", 2, 8)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [(row["kind"], row["round"]) for row in rows] == [
        ("evaluation", 0),
        ("round", 1),
        ("round", 2),
        ("evaluation", 2),
    ]
    assert all(np.isfinite(row["loss"]) for row in rows if row["kind"] == "round")


def test_summary_holds_what_is_promised(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["rounds"] == 2
    assert list(summary["evaluation"]) == ["s1", "s2", "s1+s2"]
    for scores in summary["evaluation"].values():
        assert {"f1_micro", "f1_macro", "accuracy", "f1_per_class"} <= set(scores)
    assert set(summary["communication"]) == COMMUNICATION
    assert set(summary["cost"]) == COST
    assert all(value is not None for value in summary["cost"].values())
    communication = summary["communication"]
    each = communication["bytes_up_per_client"] + communication["bytes_down_per_client"]
    assert communication["total_bytes"] == each * 4 * 2  # four clients, two rounds
    assert len(summary["state_sha256"]) == 64
    assert {"python", "jax", "flax", "numpy", "mmfl_jax"} <= set(summary["versions"])
    assert summary["skipped_clients"] == 0
    assert len(summary["clients"]) == 4


def test_bounds_stand_beside_the_run(study, folder, capsys):
    path = folder / "bounded"
    main(["run", study, "--run-dir", str(path), "--bounds", "--rounds", "1"])
    summary = json.loads((path / "summary.json").read_text())
    own = {name: json.loads((path / "bounds" / name / "summary.json").read_text()) for name in ("centralized", "local")}
    assert summary["bounds"] == {name: found["evaluation"] for name, found in own.items()}
    assert {found["communication"]["total_bytes"] for found in own.values()} == {0}
    assert len({found["state_sha256"] for found in [summary, *own.values()]}) == 3
    assert "bound: all samples pooled" in (path / "report.html").read_text()
    assert "bounds: centralized is training on all" in capsys.readouterr().out


def test_a_class_that_nobody_has_does_no_harm(run_dir):
    summary = json.loads((run_dir / "summary.json").read_text())
    for scores in summary["evaluation"].values():
        assert scores["support"][3] == 0
        assert scores["f1_per_class"][3] in (None, 0.0)  # 0 where a sample was taken for it
        known = [value for value in scores["f1_per_class"] if value is not None]
        assert scores["f1_macro"] == pytest.approx(np.mean(known))
    assert summary["baseline"]["f1_per_class"][3] is None


def test_evaluate_scores_the_last_checkpoint(run_dir, capsys):
    main(["evaluate", str(run_dir)])
    assert "after 2 rounds" in capsys.readouterr().out
    found = json.loads((run_dir / "evaluation.json").read_text())
    assert found["round"] == 2
    assert found["evaluation"] == json.loads((run_dir / "summary.json").read_text())["evaluation"]


def test_evaluate_scores_another_archive_of_the_same_classes(run_dir, folder, capsys):
    scores = json.loads((run_dir / "evaluation.json").read_text())["evaluation"]
    arrays = dict(np.load(folder / "archive.npz"))
    half = {name: values if name == "class_names" else values[::2] for name, values in arrays.items()}
    np.savez(folder / "half.npz", **half)
    main(["evaluate", str(run_dir), "--archive", f"arrays:{folder / 'half.npz'}"])
    found = json.loads((run_dir / "evaluation.json").read_text())
    assert sum(found["evaluation"]["s1"]["support"]) == len(half["label"])
    assert found["evaluation"] != scores
    np.savez(folder / "other.npz", **{**half, "s1": half["s1"][:, :-1]})
    assert_one_line(capsys, "modality s1 has", "evaluate", run_dir, "--archive", f"arrays:{folder / 'other.npz'}")


def test_compare_and_report_of_a_run(run_dir, folder, capsys):
    again = folder / "again"
    shutil.copytree(run_dir, again)
    main(["compare", str(run_dir), str(again), "--output", str(folder / "curves.png")])
    assert "s1+s2" in capsys.readouterr().out
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    (run_dir / "report.html").unlink()
    main(["report", str(run_dir)])
    assert str(run_dir / "report.html") in capsys.readouterr().out
    assert "<html" in (run_dir / "report.html").read_text()


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("studies", ["quickstart"]),
        ("methods", ["unified", "mf"]),
        ("algorithms", ["fedavg", "scaffold", "top_k"]),
        ("archives", ["twin", "arrays"]),
    ],
)
def test_list(what, expected, capsys):
    main(["list", what])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert set(expected) <= set(names)


def test_usage_names_every_command(capsys):
    main([])
    said = capsys.readouterr().out
    assert all(f"\n  {command} " in said for command in ("run", "evaluate", "compare", "report", "list"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "mf+fv"], "--method 'mf+fv': 'fv' is unknown"),
        (["--encoder", "resnet9"], "--encoder 'resnet9' is unknown; one of auto, resnet8"),
        (["--encoder", "resnet8"], "--encoder resnet8 takes samples of 3 axes"),
        (["--fusion", "product"], "--fusion 'product' is unknown; one of mean, sum, max, concat"),
        (["--norm", "layer"], "--norm 'layer' is unknown; one of batch, group, none"),
        (["--whitening", "pca"], "--whitening 'pca' is unknown; one of cholesky, zca, newton_schulz"),
        (["--whitening-epsilon", "2"], "--whitening-epsilon 2.0: must be a number from 0 to 1"),
        (["--logit-calibration", "fedcl"], "--logit-calibration 'fedcl' is unknown; one of none, fedlc"),
        (["--client-optimizer", "sdg"], "--client-optimizer 'sdg' is unknown; one of adam"),
        (["--algorithm", "fedadm"], "'fedadm' is unknown (did you mean fedadam?); one of fedavg"),
        (["--precision", "float16"], "--precision 'float16' is unknown; one of float32, bfloat16"),
        (["--private", "nrom"], "--private 'nrom' is in no variable's name; words are such as norm or head"),
        (["--rounds", "0"], "--rounds 0: --method mf trains; give at least 1"),
        (["--batch-size", "-1"], "--batch-size -1: must be a whole number from 1 to 2147483647"),
        (["--mim-weight", "-1"], "--mim-weight -1.0: must be a finite number not below 0"),
        (["--devices", "999"], "--devices 999: this host has"),
        (["--chunk-size", "5"], "--chunk-size 5 is more than the 4 clients of a round; at most 4"),
        (["--participation", "2", "--chunk-size", "3"], "--chunk-size 3 is more than the 2 clients of a round"),
        (["--participation", "5"], "--participation '5' is more than the 4 clients"),
        (["--clients", "97"], "--clients 97 is more than the 96 training samples"),
        (["--clients", "8"], "--clients 8 is more than the 7 values of region"),
        (["--partition", "by:regoin"], "'regoin' is no attribute of archive arrays (did you mean region?)"),
        (["--modality-assignment", "both"], "--modality-assignment 'both' is unknown; one of single"),
        (["--test-split", "official"], "--test-split official: archive arrays has no official split; try 0.2"),
        (["--modalities", "s1,s3"], "'s3' is no modality of"),
        (["--modalities", "S1"], "(did you mean s1?)"),
        (["--archive", "arays:x.npz"], "'arays' is no kind of archive (did you mean arrays?)"),
        (["--archive", "arrays:nowhere.npz"], "nowhere.npz: no such file"),
        (["--modalities", "s1", "--method", "mf+mim"], "MIM compares modalities, but there is only s1"),
        (["--method", "mf+mim", "--mim-positives", "pairs"], "choose --modality-assignment all or mixed"),
        (["--method", "mf+mim", "--mim-positives", "places"], "choose --modality-assignment split"),
        (["--resume"], "--resume needs --run-dir"),
    ],
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(study, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert_one_line(capsys, message, "run", study, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "many"], "--rounds 'many': must be a whole number from 0 to 2147483647"),
        (["--batch-size", "1.5"], "--batch-size '1.5': must be a whole number from 1 to 2147483647"),
        (["--algoritm", "mf"], "--algoritm is unknown; did you mean --algorithm?"),
        (["--rezume"], "--rezume is unknown; did you mean --resume?"),
        (["surplus"], "'surplus' belongs to no option; they are written --option value"),
        (["--rounds"], "Missing value for argument '--rounds'"),
    ],
)
def test_what_the_parser_refuses_is_one_line_too(study, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    assert_one_line(capsys, message, "run", study, *options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_patches_takes_an_archive_of_its_kind(run_dir, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    places = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert_one_line(capsys, "no such file; arrays:FILE.npz needs", "predict", run_dir, *places)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quikstart"], "study 'quikstart' is unknown; one of "),
        (["run", "nowhere.py"], "study 'nowhere.py' is unknown"),
        (
            ["train", "quickstart"],
            "command 'train' is unknown; one of run, sweep, plan, evaluate, predict, compare, report, prepare, list",
        ),
        (["evaluate", "nowhere"], "nowhere/config.json does not exist; is nowhere a run directory?"),
        (["report", "nowhere"], "nowhere"),
        (["report"], "report needs RUN_DIR"),
        (["prepare"], "prepare needs SOURCE, --output OUTPUT"),
        (["list"], "list needs studies|methods|algorithms|archives"),
        (["compare", "nowhere", "--output", "x.txt"], "--output 'x.txt': write it as .png, .pdf or .svg"),
        (
            ["compare", "nowhere", "--folds", "tset-split"],
            "tset_split is no field of a study; did you mean",
        ),
        (
            ["compare", "a", "--validation", "--output", "x.png"],
            "--output tells the scores on test samples",
        ),
        (["evaluate", "nowhere", "--bets"], "evaluate: --bets is unknown; did you mean --best?"),
        (["list", "methodz"], "invalid choice 'methodz'"),
        (["compare", "nowhere"], "nowhere"),
        (["predict", "nowhere", "--input", "x", "--output", "y"], "x: no such folder; --input needs the folder with"),
        (["predict", "nowhere", "--input", "/", "--output", "/y"], "/y: lies in the input /, where maps would"),
        (["predict", "run", "--input", "x", "--output", "y", "--overlap", "0.6"], "--overlap 0.6: must be a number"),
        (
            ["predict", "run", "--input", "x", "--output", "y", "--windw", "6"],
            "windw is unknown; did you mean --window?",
        ),
    ],
)
def test_what_does_not_exist_is_named(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_one_line(capsys, message, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_an_editor_leaves_beside_studies_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / ".#mine.py").symlink_to("me@host.1:2")
    (tmp_path / "experiments" / "tool.py").write_text("def main():\n    study = 3\n")
    (tmp_path / "experiments" / "own.py").write_text("study = 3\n")
    main(["list", "studies"])
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert "own" in names
    assert not {"tool", ".#mine", "scaling_study"} & set(names)


def test_a_table_of_patches_replaces_no_file(run_dir, folder, tmp_path, capsys):
    (tmp_path / "predictions.parquet").write_text("mine")
    places = ("--input", folder / "archive.npz", "--output", tmp_path)
    assert_one_line(capsys, "predictions.parquet: is there already; move it", "predict", run_dir, *places)
    assert (tmp_path / "predictions.parquet").read_text() == "mine"


def test_a_file_without_a_study(tmp_path, capsys):
    path = tmp_path / "mine.py"
    path.write_text("study = 3\n")
    assert_one_line(capsys, "mine.py assigns no `study = Study.of(...)`", "run", path)


def test_run_needs_a_study(capsys):
    code, said = leave(capsys, "run", "--rounds", "3")
    assert code == 2
    assert "mmfl-jax: run needs a STUDY first, such as quickstart" in said


def test_help_and_version_need_nothing_else(capsys):
    for arguments in (["run", "--help"], ["sweep", "-h"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        assert "--samples" in capsys.readouterr().out
    main(["--version"])
    assert capsys.readouterr().out == f"mmfl-jax {version('mmfl_jax')}\n"


def test_a_studys_limits_hold_for_an_archive_on_disk_and_are_told(tmp_path, capsys):
    images = np.random.default_rng(0).normal(size=(40, 8, 8, 2)).astype(np.float32)
    np.savez(tmp_path / "own.npz", s1=images, label=np.arange(40) % 2)
    small = [
        "--encoder",
        "mlp",
        "--width",
        "4",
        "--rounds",
        "1",
        "--method",
        "mf",
        "--partition",
        "iid",
        "--clients",
        "2",
    ]
    own = [
        "run",
        "quickstart",
        "--archive",
        f"arrays:{tmp_path / 'own.npz'}",
        "--run-dir",
        str(tmp_path / "run"),
        *small,
    ]
    main([*own, "--samples", "30", "--test-split", "0.2"])
    told = capsys.readouterr().err
    assert f"--image-size 16 of this study hold for arrays:{tmp_path / 'own.npz'} too; 0 takes all" in told
    assert "--samples" not in told


def test_a_run_directory_that_exists_is_left_as_it_is(study, run_dir, capsys):
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    message = f"--run-dir {run_dir} exists; continue it with --resume, or name another directory"
    assert_one_line(capsys, message, "run", study, "--run-dir", run_dir)
    another = "was run with seed 0, not 1; give the same options, or run in a new directory"
    assert_one_line(capsys, another, "run", study, "--run-dir", run_dir, "--resume", "--seed", "1")
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before


def test_resume_of_what_is_no_run(study, tmp_path, capsys):
    assert_one_line(capsys, "x a run directory?", "run", study, "--run-dir", tmp_path / "x", "--resume")
    (tmp_path / "config.json").write_text('{"rounds": 2')
    assert_one_line(
        capsys, "config.json is not a study's configuration", "run", study, "--run-dir", tmp_path, "--resume"
    )
    (tmp_path / "config.json").write_text('{"ruonds": 2}')
    assert_one_line(
        capsys, "config.json is not a study's configuration", "run", study, "--run-dir", tmp_path, "--resume"
    )


def test_a_run_directory_that_cannot_be_written(study, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("mine")
    inside = tmp_path / "file" / "run"
    assert_one_line(capsys, f"--run-dir {inside}: cannot write to", "run", study, "--run-dir", inside)
    locked = tmp_path / "locked"
    locked.mkdir()
    # Tests may run as root, to whom no directory is closed.
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: access(path, mode) and str(path) != str(locked))
    assert_one_line(capsys, f"cannot write to {locked}", "run", study, "--run-dir", locked / "run")
    assert (tmp_path / "file").read_text() == "mine"
    assert list(locked.iterdir()) == []


def test_the_command_in_a_process_of_its_own(study):
    call = [sys.executable, "-c", "from mmfl_jax.cli import main; main()", "run", study, "--fusion", "product"]
    ended = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "mmfl-jax: --fusion 'product' is unknown; one of mean, sum, max, concat\n"
    traced = subprocess.run([*call, "--debug"], capture_output=True, text=True, timeout=120)
    assert "Traceback" in traced.stderr


def test_a_stop_while_the_command_line_is_imported_is_no_traceback(tmp_path):
    # A package that the command line imports, and that is interrupted meanwhile.
    (tmp_path / "tyro").mkdir()
    interrupted = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(20)\n"
    (tmp_path / "tyro" / "__init__.py").write_text(interrupted)
    begin = "import signal, runpy; signal.signal(signal.SIGINT, signal.default_int_handler)"
    call = [sys.executable, "-c", f"{begin}; runpy.run_module('mmfl_jax', run_name='__main__')", "list", "studies"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
