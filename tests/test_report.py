"""The report, comparison and progress on small synthetic run directories."""

import builtins
import html
import json
import re
import subprocess
import sys
from contextlib import closing

import numpy as np
import pytest

from mmfl_jax import report
from mmfl_jax.errors import UserError
from mmfl_jax.report import comparison, presentation, terminal
from mmfl_jax.runs import read_run, values

SECTIONS = (
    "Results",
    "Scores by round",
    "Training loss",
    "Classes",
    "Clients",
    "Bytes and time",
    "Configuration",
)
SETS = ("s1", "s2", "s1+s2")


def score_lines(task, sets, progress, rng, classes=None):
    """Return an evaluation that rises with progress in [0, 1]; with classes also the lists by class."""
    evaluation = {}
    for position, name in enumerate(sets):
        top = 0.45 + 0.3 * position / len(sets)
        first = float(top * (1 - np.exp(-4 * progress)) + 0.01 * rng.normal())
        scores = {"f1_macro": first * 0.75}
        scores |= {"f1_micro": first, "map": first * 0.9} if task == "multilabel" else {"accuracy": first}
        if classes:
            by_class = np.clip(first * np.linspace(1.3, 0.1, classes) + 0.05 * rng.normal(size=classes), 0, 1)
            scores |= {"f1_per_class": by_class.tolist(), "support": (900 // np.arange(1, classes + 1)).tolist()}
            scores["f1_per_class"][-1] = None
        evaluation[name] = scores
    return evaluation


def make_run(
    path,
    *,
    task="multilabel",
    classes=("Arable land", "Broad-leaved forest", "Marine waters"),
    clients=4,
    clients_total=None,
    rounds=6,
    sets=SETS,
    finished=True,
    client_names=None,
    single_modality=True,
    skipped=0,
    **config,
):
    rng = np.random.default_rng(config.get("seed", 0))
    path.mkdir(parents=True)
    config = {"name": path.name, "archive": "twin", "modalities": "s1,s2", "method": "mf", "seed": 0} | config
    write(
        path / "config.json",
        {"rounds": rounds if finished else 6, "partition": "by:country", "modality_assignment": "single"} | config,
    )
    sizes = np.sort(np.maximum(rng.pareto(1.0, clients) * 300, 20).astype(int))[::-1]
    shares = rng.dirichlet(np.full(len(classes), 0.6), clients) * (2.5 if task == "multilabel" else 1)
    singles = [name for name in sets if "+" not in name]
    holders = [
        {
            "name": client_names[i] if client_names else f"client {i}",
            "modalities": [singles[i % len(singles)]] if single_modality else list(singles),
            "samples": int(n),
            "labels": np.minimum(shares[i] * n, n).astype(int).tolist(),
        }
        for i, n in enumerate(sizes)
    ]
    federation = {"class_names": list(classes), "task": task, "clients": holders, "test_samples": 1200}
    federation |= {"train_samples": int(sizes.sum()), "clients_total": clients_total or clients, "sha256": "ab"}
    write(path / "federation.json", federation)
    lines = [{"kind": "evaluation", "round": 0, "evaluation": score_lines(task, sets, 0, rng)}]
    for r in range(1, rounds + 1):
        decay = float(np.exp(-3 * r / rounds))
        measured = {"loss": 0.5 + decay, "task_loss": 0.2 + decay, "mim_loss": 3.0 + 0.4 * decay, "seconds": 2.1}
        traffic = {"clients": clients, "padding_waste": 0.03, "bytes_up": 4_000_000, "bytes_down": 4_000_000}
        traffic["skipped_clients"] = skipped
        lines.append({"kind": "round", "round": r, **measured, **traffic})
        lines.append({"kind": "evaluation", "round": r, "evaluation": score_lines(task, sets, r / rounds, rng)})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        final = score_lines(task, sets, 1, rng, len(classes))
        write(path / "summary.json", summary_of(task, final, rounds, len(classes)))
    return path


def summary_of(task, evaluation, rounds, classes):
    baseline = {"f1_micro": 0.31, "f1_macro": 0.08, "map": 0.2, "rule": "the 2 most frequent labels for every sample"}
    if task == "multiclass":
        baseline = {"accuracy": 0.31, "f1_micro": 0.31, "f1_macro": 0.08, "rule": "the most frequent class"}
    return {
        "rounds": rounds,
        "evaluation": evaluation,
        "baseline": baseline | {"f1_per_class": [0.6, 0.4] + [0.0] * (classes - 2), "support": [3] * classes},
        "communication": {"bytes_up_per_client": 1e6, "bytes_down_per_client": 1e6, "total_bytes": 8e6 * rounds},
        "cost": {
            "flops_per_round": 3.2e12,
            "compile_seconds": 41.0,
            "seconds_per_round": 2.1,
            "padding_waste": 0.031,
            "peak_memory_bytes": None,
        },
        "state_sha256": "ab" * 32,
        "versions": {"jax": "0.10.2", "flax": "0.12.1"},
        "skipped_clients": 0,
        "stopped_early": False,
        "archive": {"name": "twin", "samples": 6000},
    }


def write(path, value):
    path.write_text(json.dumps(value))


def read_page(path):
    page = path.read_text(encoding="utf-8")
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(SECTIONS)
    # Self-contained: images are embedded, nothing is loaded from elsewhere, nothing is executed.
    assert not re.search(r"https?://|<script|<link|@import|url\(|src=\"(?!data:)", page)
    return page


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_report_of_a_finished_run(tmp_path, task):
    run = make_run(tmp_path / "study", task=task)
    path = report.write_report(run)
    page = read_page(path)
    assert path == run / "report.html"
    figures = sorted(file.name for file in (run / "figures").iterdir())
    assert figures == ["classes.png", "clients.png", "cost.png", "losses.png", "scores.png"]
    assert page.count("data:image/png;base64,") == 5
    assert all((run / "figures" / name).read_bytes().startswith(b"\x89PNG") for name in figures)
    assert ("Micro F1" in page) == (task == "multilabel")
    for piece in (
        "most frequent",
        "0.310",
        "by:country",
        "ab" * 32,
        "0.10.2",
        "48 MB",
        "3.2 TFLOP",
        "3.1%",
        "finished",
    ):
        assert piece in page
    assert not list(run.glob("*.new"))


def test_report_of_a_run_still_going(tmp_path):
    run = make_run(tmp_path / "study", finished=False, rounds=1)
    page = read_page(report.write_report(run))
    assert "not finished" in page
    assert "1 of 6 rounds" in page
    assert not (run / "figures" / "classes.png").exists()


def test_a_federation_that_was_given_is_not_called_the_studys(tmp_path):
    run = make_run(tmp_path / "study")
    assert "on twin · " in (page := read_page(report.write_report(run)))
    assert "partition by:country" in page
    summary = json.loads((run / "summary.json").read_text())
    write(run / "summary.json", summary | {"archive": {"name": "tiles"}})
    header = read_page(report.write_report(run)).split("</header>")[0]
    assert "on tiles · " in header
    assert "partition" not in header


def test_report_before_the_first_round(tmp_path):
    run = make_run(tmp_path / "study", finished=False)
    (run / "metrics.jsonl").write_text("")
    assert "No evaluation yet." in read_page(report.write_report(run))


def test_report_bears_missing_numbers(tmp_path):
    run = make_run(tmp_path / "study")
    summary = json.loads((run / "summary.json").read_text())
    summary["evaluation"]["s1"] |= {"f1_micro": None, "map": float("nan"), "f1_per_class": [None, float("nan"), 0.5]}
    summary["cost"] = dict.fromkeys(summary["cost"])
    write(run / "summary.json", summary)
    before, first, after = (run / "metrics.jsonl").read_text().split("\n", 2)
    first = json.dumps(json.loads(first) | {"loss": float("nan"), "task_loss": None})
    (run / "metrics.jsonl").write_text("\n".join([before, first, after]))
    page = read_page(report.write_report(run))
    assert presentation.MISSING in page
    assert "nan" not in re.sub(r"base64,[^\"]*", "", page)


def test_report_escapes_names_and_draws_them_as_they_are(tmp_path):
    nasty = '<script>alert(1)</script> $\\frac{$ & "quoted"'
    run = make_run(tmp_path / "study", classes=(nasty, "water", "built"), client_names=[nasty] * 4)
    page = read_page(report.write_report(run))
    assert "<script>alert" not in page
    assert html.escape(nasty) in page


def test_report_of_many_clients_tells_how_many(tmp_path):
    run = make_run(tmp_path / "study", clients=50, clients_total=5000)
    page = read_page(report.write_report(run))
    assert "The 50 largest of 5,000 clients" in page
    assert "5,000 clients" in page


def test_a_cut_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "study", rounds=3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "round", "round": 4, "lo')
    assert [line["round"] for line in read_run(run).rounds] == [1, 2, 3]


def test_clients_that_were_left_out_are_told(tmp_path, capsys):
    run = make_run(tmp_path / "study", skipped=2, rounds=3, finished=False)
    page = read_page(report.write_report(run))
    assert "<small>Left out</small><b>6</b>" in page
    progress = report.RoundProgress()
    progress.begin(0, 2)
    for number in (1, 2):
        progress.round({"round": number, "loss": 1.0, "skipped_clients": 2})
    progress.evaluation(2, {"s1": {"accuracy": 0.5}})
    assert "4 client updates left out" in capsys.readouterr().err
    assert report.result_table({"skipped_clients": 1}).caption == "1 client update left out: not finite"


def test_a_missing_run_directory_is_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such run directory"):
        report.write_report(tmp_path / "nowhere")


def seeded_runs(tmp_path):
    return [
        make_run(tmp_path / f"{method}-{seed}", method=method, seed=seed)
        for method in ("mf", "unified")
        for seed in (0, 1, 2)
    ]


def test_compare_takes_seeds_together(tmp_path):
    runs = seeded_runs(tmp_path)
    rows = report.compare(runs)
    assert [row["name"] for row in rows] == ["mf", "unified"]
    assert [row["seeds"] for row in rows] == [[0, 1, 2]] * 2
    assert rows[0]["runs"] == runs[:3]
    assert rows[0]["differences"] == {"method": "mf"}
    values = [json.loads((run / "summary.json").read_text())["evaluation"]["s1+s2"]["f1_micro"] for run in runs[:3]]
    statistic = rows[0]["scores"]["s1+s2"]["f1_micro"]
    assert statistic == {"mean": pytest.approx(np.mean(values)), "std": pytest.approx(np.std(values, ddof=1)), "n": 3}


def test_compare_keeps_different_configurations_apart(tmp_path):
    runs = [make_run(tmp_path / f"run{i}", seed=i, local_epochs=i + 1) for i in range(2)]
    rows = report.compare(runs)
    assert [row["differences"] for row in rows] == [{"local_epochs": 1}, {"local_epochs": 2}]
    assert rows[0]["scores"]["s1"]["f1_micro"]["std"] is None
    assert len(report.compare(runs, over=("seed", "local_epochs"))) == 1


def test_compare_averages_folds_before_it_takes_the_spread_over_seeds(tmp_path):
    runs = [
        make_run(tmp_path / f"resnet8-seed{seed}-fold{fold}", seed=seed, test_split=f"by:region:{fold}/2")
        for seed in range(2)
        for fold in range(2)
    ]
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    for summary, run, value in zip(summaries, runs, (0.1, 0.3, 0.4, 0.8)):
        summary["evaluation"]["s1"]["f1_micro"] = value
        (run / "summary.json").write_text(json.dumps(summary))
    (row,) = report.compare(runs, folds=("test_split",))
    assert (row["name"], row["seeds"]) == ("resnet8", [0, 1])
    spread = np.std([0.2, 0.6], ddof=1)
    assert row["scores"]["s1"]["f1_micro"] == {"mean": pytest.approx(0.4), "std": pytest.approx(spread), "n": 2}


def test_comparison_table_and_figure(tmp_path):
    from rich.console import Console

    runs = [*seeded_runs(tmp_path), make_run(tmp_path / "going [red]", method="mf+fw", finished=False)]
    console = Console(width=200, record=True, file=(tmp_path / "out.txt").open("w"))
    console.print(report.comparison_table(report.compare(runs)))
    text = console.export_text()
    console.file.close()
    for piece in (
        "unified",
        "seeds 0 1 2",
        " ±.0",
        "mAP",
        "Micro F1",
        "s1+s2",
        "48 MB",
        "going [red]",
        "not finished",
    ):
        assert piece in text
    figures = report.write_comparison(runs, tmp_path / "new" / "comparison.png")
    assert [path.name for path in figures] == ["comparison.png", "comparison-bytes.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in figures)


def test_compare_refuses_nothing_and_doubles(tmp_path):
    run = make_run(tmp_path / "study")
    with pytest.raises(UserError, match="no run directory"):
        report.compare([])
    with pytest.raises(UserError, match="given twice"):
        report.compare([run, run])
    (run / "metrics.jsonl").write_text("")
    (run / "summary.json").unlink()
    assert report.compare([run])[0]["scores"] == {}
    with pytest.raises(UserError, match="no run has an evaluation"):
        comparison.write_comparison([run], tmp_path / "comparison.png")


def progress_of(rounds, evaluate_every, first=0, **options):
    rng = np.random.default_rng(0)
    with closing(report.RoundProgress(**options)) as progress:
        progress.begin(first, rounds)
        for r in range(first + 1, rounds + 1):
            progress.round({"round": r, "loss": 1 / r, "seconds": 0.5})
            if r % evaluate_every == 0:
                progress.evaluation(r, score_lines("multilabel", SETS, r / rounds, rng))


def test_progress_writes_a_line_for_each_evaluation_where_there_is_no_terminal(capsys):
    progress_of(10, 5)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert [line.split(" · ")[0] for line in lines] == ["round 5/10", "round 10/10"]
    assert "loss 0.2000" in lines[0]
    assert re.search(r"mAP: s1 0\.\d+  s2 0\.\d+  s1\+s2 0\.\d+", lines[0])
    assert "left" in lines[0]
    assert "left" not in lines[1]


def test_progress_says_now_and_then_that_it_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "HEARTBEAT", -1.0)
    progress_of(3, 10)
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_the_engine_needs_neither_rich_nor_matplotlib():
    script = (
        "import sys; sys.modules.update(rich=None, matplotlib=None, tensorboard=None); from mmfl_jax import report\n"
        "progress = report.RoundProgress(); progress.begin(0, 2); progress.evaluation(1, {'s1': {'accuracy': 0.5}})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "round 1/2 · Accuracy: s1 0.500"


def test_progress_says_what_privacy_has_cost(capsys):
    progress = report.RoundProgress()
    progress.begin(0, 2)
    progress.round({"round": 1, "loss": 1.0})
    progress.evaluation(1, {"s1": {"accuracy": 0.5}}, {"epsilon": 3.14159, "delta": 1e-5})
    assert "· ε 3.14\n" in capsys.readouterr().err


def test_bounds_and_privacy_are_shown(tmp_path):
    from rich.console import Console

    run = make_run(tmp_path / "study")
    summary = json.loads((run / "summary.json").read_text())
    summary["bounds"] = {
        "centralized": {name: {"map": 0.9125} for name in SETS},
        "local": {name: {"map": 0.0375} for name in ("s1", "s2")},
    }
    summary["privacy"] = {"epsilon": 2.5, "delta": 1e-5}
    (run / "summary.json").write_text(json.dumps(summary))
    page = report.write_report(run).read_text()
    assert "bound: all samples pooled, s1+s2</em></td><td>0.912" in page
    assert "bound: each client alone, s2</em></td><td>0.037" in page
    assert "epsilon 2.5 at delta 1e-05" in page
    with (tmp_path / "out.txt").open("w") as file:
        console = Console(width=160, record=True, file=file)
        console.print(report.result_table(summary))
    text = console.export_text()
    rows = [line.split("  ")[0].strip() for line in text.splitlines()]
    assert [rows.count(name) for name in ("centralized", "local, s1", "local, s2")] == [1, 1, 1]
    assert "bounds: centralized is training on all samples pooled" in " ".join(text.split())
    summary["bounds"]["local"] = [0.1]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(UserError, match=r"summary.json: bounds.local: input should be"):
        report.write_report(run)


def test_quiet_progress_writes_nothing(capsys):
    progress_of(4, 1, quiet=True)
    assert capsys.readouterr() == ("", "")


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    progress_of(4, 2, first=1)
    err = capsys.readouterr().err
    assert "4/4" in err
    assert "(s1+s2)" in err


def test_result_table_has_a_row_for_each_modality_set_and_the_baseline(tmp_path):
    from rich.console import Console

    run = make_run(tmp_path / "study")
    with (tmp_path / "out.txt").open("w") as file:
        console = Console(width=120, record=True, file=file)
        console.print(report.result_table(json.loads((run / "summary.json").read_text())))
        console.print(report.result_table({}))
        # Nothing is cut in a terminal of usual width.
        assert (
            Console(width=200, file=file)
            .measure(report.result_table(json.loads((run / "summary.json").read_text())))
            .minimum
            <= 80
        )
    text = console.export_text()
    assert [name in text for name in (*SETS, "Micro F1", "mAP", "the 2 most frequent labels")] == [True] * 6


def test_tensorboard_files_hold_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with closing(report.TensorBoardWriter(tmp_path)) as writer:
        writer.begin(0, 3)
        writer.round({"kind": "round", "round": 3, "loss": 0.5, "mim_loss": None})
        writer.evaluation(3, {"s1+s2": {"f1_micro": 0.25, "f1_per_class": [0.5]}})
    (file,) = (tmp_path / "tensorboard").iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.summary.value]
    values = {v.tag: (e.step, v.tensor.float_val[0]) for e in events for v in e.summary.value}
    assert values == {"round/loss": (3, 0.5), "evaluation/f1_micro/s1+s2": (3, 0.25)}


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=re.escape('pip install "mmfl_jax[tensorboard]"')):
        report.TensorBoardWriter(tmp_path)


@pytest.mark.parametrize(
    "written, expected",
    [
        (presentation.scaled_text(999_600, "B"), "1 MB"),
        (presentation.scaled_text(1234, "B"), "1.23 kB"),
        (presentation.scaled_text(0), "0"),
        (presentation.scaled_text(None), presentation.MISSING),
        (presentation.seconds_text(0.421), "0.42 s"),
        (presentation.seconds_text(59.97), "1 min 00 s"),
        (presentation.seconds_text(4800), "1 h 20 min"),
        (presentation.score_text(float("nan")), presentation.MISSING),
        (
            presentation.shorten(
                "Land principally occupied by agriculture, with significant areas of natural vegetation"
            ),
            "Land principally occupied by agriculture…",
        ),
        (presentation.shorten("Inland wetlands"), "Inland wetlands"),
    ],
)
def test_numbers_and_names_are_written_for_people(written, expected):
    assert written == expected


def test_modality_sets_are_ordered_and_coloured():
    sets = values.ordered_sets(["s1+s2", "hsi+s1+s2", "s2", "s1", "hsi"], ["s1", "s2", "hsi"])
    assert sets == ["s1", "s2", "hsi", "s1+s2", "hsi+s1+s2"]
    colors = presentation.modality_colors(sets)
    assert list(colors) == sets
    assert len(set(colors.values())) == 5
    assert values.fused_set(sets) == "hsi+s1+s2"
