"""Comparisons: cost to a target by hand, paired differences against SciPy, tables as they are printed."""

import json

import numpy as np
import pytest
from scipy import stats

from mmfl_jax import report
from mmfl_jax.cli import main
from mmfl_jax.errors import UserError
from mmfl_jax.report.comparison.intervals import paired_difference, student_quantile


def make_run(path, curve, *, seed=0, sent=100, seconds=None, flops=2e9, epsilon=None, finished=True, **config):
    """Write a run whose fused score after rounds 0, 1, ... is ``curve``, and those of its sensors half of it."""
    path.mkdir(parents=True)
    config = {"name": path.name, "modalities": "s1,s2", "seed": seed, "rounds": len(curve) - 1, **config}
    (path / "config.json").write_text(json.dumps(config))
    clients = [{"name": "a", "modalities": ["s1"], "samples": 9, "labels": [4, 5]}]
    federation = {"class_names": ["x", "y"], "clients": clients, "task": "multilabel", "clients_total": 1}
    federation |= {"train_samples": 9, "test_samples": 9, "sha256": "ab"}
    (path / "federation.json").write_text(json.dumps(federation))
    lines = []
    for number, score in enumerate(curve):
        if number:
            line = {"kind": "round", "round": number, "bytes_up": sent * number, "bytes_down": sent, "seconds": 0.5}
            line |= {"loss": 0.5, "clients": 1, "skipped_clients": 0, "padding_waste": 0.0}
            lines.append(line | ({} if seconds is None else {"simulated_seconds": seconds}))
        lines.append({"kind": "evaluation", "round": number, "evaluation": scores(score)})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if finished:
        measured = ("compile_seconds", "seconds_per_round", "padding_waste", "peak_memory_bytes")
        sent_each = ("bytes_up_per_client", "bytes_down_per_client", "total_bytes")
        summary = {
            "rounds": len(curve) - 1,
            "evaluation": scores(curve[-1]),
            "cost": {"flops_per_round": flops, **dict.fromkeys(measured)},
            "communication": dict.fromkeys(sent_each, 0),
            "privacy": None if epsilon is None else {"epsilon": epsilon},
            "baseline": {},
            "skipped_clients": 0,
            "state_sha256": "ab",
            "versions": {},
            "archive": {},
        }
        (path / "summary.json").write_text(json.dumps(summary))
    return path


def scores(score):
    return {
        name: {"f1_micro": share * score, "f1_macro": share * score / 2}
        for name, share in (("s1", 0.5), ("s2", 0.5), ("s1+s2", 1.0))
    }


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 120, 121])
def test_the_quantile_is_scipys(freedom):
    for level in (0.5, 0.9, 0.95, 0.999):
        assert student_quantile(level, freedom) == pytest.approx(stats.t.ppf((1 + level) / 2, freedom), rel=1e-10)


def test_paired_differences_are_scipys():
    rng = np.random.default_rng(0)
    own, other = rng.random(6), rng.random(6)
    found = paired_difference(dict(enumerate(own)), dict(enumerate(other)))
    expected = stats.ttest_rel(own, other).confidence_interval(0.95)
    assert (found["low"], found["high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found["mean"] == pytest.approx(np.mean(own - other))
    assert found["n"] == 6


def test_bounds_have_rows_paired_with_the_runs(tmp_path):
    ends, top = {("mf", 0): 0.4, ("mf", 1): 0.6, ("prox", 0): 0.5, ("prox", 1): 0.5}, [0.7, 0.8]
    for (name, seed), end in ends.items():
        run = make_run(tmp_path / f"{name}-seed{seed}", [0.1, end], seed=seed, algorithm=name)
        # As mmfl-jax run --bounds leaves it: each run has its own, which are alike for one seed.
        make_run(run / "bounds" / "centralized", [0.1, top[seed]], seed=seed, algorithm="centralized")
    rows = report.compare([tmp_path / f"{name}-seed{seed}" for name, seed in ends])
    assert [row["name"] for row in rows] == ["mf", "prox", "centralized"]
    assert len(rows[2]["runs"]) == 2
    difference = rows[2]["against"]["scores"]["s1+s2"]["f1_micro"]
    expected = stats.ttest_rel(top, [0.4, 0.6]).confidence_interval(0.95)
    assert difference["n"] == 2
    assert (difference["mean"], difference["low"]) == (pytest.approx(0.25), pytest.approx(expected.low))


def test_options_are_chosen_by_scores_on_validation_samples(tmp_path):
    runs = [make_run(tmp_path / f"{name}-seed0", [0.1, end], algorithm=name) for name, end in (("a", 0.4), ("b", 0.6))]
    with pytest.raises(UserError, match="a-seed0: has no scores on validation samples"):
        report.compare(runs, validation=True)
    for run, score in zip(runs, (0.8, 0.3)):
        summary = json.loads((run / "summary.json").read_text())
        (run / "summary.json").write_text(json.dumps(summary | {"validation": scores(score)}))
    rows = report.compare(runs, validation=True)
    assert [row["scores"]["s1+s2"]["f1_micro"]["mean"] for row in rows] == [0.8, 0.3]
    assert rows[1]["against"]["scores"]["s1+s2"]["f1_micro"]["mean"] == pytest.approx(-0.5)


def test_only_pairs_count():
    found = paired_difference({0: 0.5, 1: 0.7, 2: None, 3: 0.1}, {0: 0.4, 1: 0.5, 2: 0.2, 4: 0.9})
    half = stats.t.ppf(0.975, 1) * np.std([0.1, 0.2], ddof=1) / np.sqrt(2)
    assert found == {
        "mean": pytest.approx(0.15),
        "low": pytest.approx(0.15 - half),
        "high": pytest.approx(0.15 + half),
        "n": 2,
    }
    assert paired_difference({0: 0.5}, {0: 0.25}) == {"mean": 0.25, "low": None, "high": None, "n": 1}
    assert paired_difference({0: 0.5}, {1: 0.25}) == {"mean": None, "low": None, "high": None, "n": 0}


def test_many_configurations_have_a_figure_of_all_scores_and_lines_of_the_best(tmp_path):
    runs = [make_run(tmp_path / f"m{i}", [0, i / 20], method=f"m{i}") for i in range(14)]
    drawn = []

    def note(figure, path):
        labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
        ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        drawn.append((path.name, labels, ticks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmfl_jax.report.figures.save", note)
        report.write_comparison(runs, tmp_path / "c.png")
    lines, scores = drawn[0], drawn[-1]
    assert lines[0] == "c.png"
    assert lines[1] == {f"m{i}" for i in range(2, 14)}
    assert scores[0] == "c-scores.png"
    assert scores[2] == [f"m{i}" for i in range(14)]


def test_a_baseline_whose_name_several_rows_have_is_asked_by_directory(tmp_path):
    runs = [make_run(tmp_path / f"{i}" / "mf", [0, 0.5], width=i) for i in range(2)]
    with pytest.raises(UserError, match="'mf' is the name of 2 rows; give the directory of a run"):
        report.compare(runs, baseline="mf")
    assert [row["against"] is None for row in report.compare(runs, baseline=str(runs[1]))] == [False, True]


def test_rows_are_paired_by_seed_whatever_their_order(tmp_path):
    base = {0: 0.2, 1: 0.4, 2: 0.6}
    runs = [make_run(tmp_path / f"mf-seed{s}", [0, base[s]], seed=s, method="mf") for s in (0, 1, 2)]
    runs += [make_run(tmp_path / f"fw-seed{s}", [0, base[s] + 0.1], seed=s, method="fw") for s in (2, 0, 1)]
    runs += [make_run(tmp_path / "fw-seed9", [0, 0.9], seed=9, method="fw")]
    first, second = report.compare(runs)
    assert first["against"] is None
    assert second["against"]["baseline"] == "mf"
    difference = second["against"]["scores"]["s1+s2"]["f1_micro"]
    assert difference["mean"] == pytest.approx(0.1)
    assert difference["high"] - difference["low"] == pytest.approx(0, abs=1e-9)  # unpaired, it would be ±.5
    assert difference["n"] == 3
    assert second["against"]["scores"]["s1"]["f1_micro"]["mean"] == pytest.approx(0.05)
    first, second = report.compare(runs, baseline="fw")
    assert second["against"] is None
    assert first["against"]["scores"]["s1+s2"]["f1_micro"]["mean"] == pytest.approx(-0.1)
    assert report.compare(runs, baseline="fw-seed9")[1]["against"] is None
    with pytest.raises(UserError, match="--baseline 'fx' is no row; one of mf, fw"):
        report.compare(runs, baseline="fx")


def test_folds_are_paired_and_a_seed_counts_once(tmp_path):
    runs = []
    for method, gains in (("mf", {}), ("fw", {(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.5})):
        for seed, fold in ((0, 0), (0, 1), (1, 0), (1, 1)):
            if method == "mf" or (seed, fold) in gains:
                score = 0.1 + 0.2 * fold + gains.get((seed, fold), 0)
                run = tmp_path / f"{method}-seed{seed}-fold{fold}"
                runs.append(make_run(run, [0, score], seed=seed, method=method, test_split=f"by:region:{fold}/2"))
    _, row = report.compare(runs, folds=("test_split",))
    difference = row["against"]["scores"]["s1+s2"]["f1_micro"]
    # Seed 0: (.1 + .3) / 2; seed 1: .5 of its only shared fold, whatever the baseline's other fold scored.
    half = stats.t.ppf(0.975, 1) * np.std([0.2, 0.5], ddof=1) / np.sqrt(2)
    assert difference["n"] == 2
    assert difference["mean"] == pytest.approx(0.35)
    assert difference["high"] == pytest.approx(0.35 + half)


def test_cost_to_a_target_by_hand(tmp_path):
    runs = [
        make_run(tmp_path / "mf-seed0", [0, 0.3, 0.5, 0.4], seed=0, method="mf", seconds=10, epsilon=3.0),
        make_run(tmp_path / "mf-seed1", [0, 0.6, 0.4, 0.7], seed=1, method="mf", seconds=30, epsilon=3.0),
        make_run(tmp_path / "mf-seed2", [0, 0.1, 0.2, 0.3], seed=2, method="mf", seconds=99, epsilon=3.0),
    ]
    (row,) = report.compare(runs, target=("f1_micro", 0.5))
    target = row["target"]
    assert (target["reached"], target["of"], target["set"]) == (2, 3, "s1+s2")
    assert target["rounds"] == {"mean": 1.5, "std": pytest.approx(np.std([2, 1], ddof=1)), "n": 2}
    # Rounds cost 100 + 100, 200 + 100, 300 + 100 bytes.
    assert target["bytes"]["mean"] == (500 + 200) / 2
    assert target["simulated_seconds"]["mean"] == (20 + 30) / 2
    assert row["total_flops"]["mean"] == 3 * 2e9
    assert row["simulated_seconds"]["mean"] == pytest.approx((30 + 90 + 297) / 3)
    assert row["epsilon"]["mean"] == 3.0


def test_folds_reach_a_target_by_their_mean(tmp_path):
    curves = ([0, 0.2, 0.6], [0, 0.4, 0.8])
    runs = [make_run(tmp_path / f"f{i}", c, test_split=str(i), sent=100 * (i + 1)) for i, c in enumerate(curves)]
    (row,) = report.compare(runs, folds=("test_split",), target=("f1_micro", 0.3))
    assert (row["target"]["reached"], row["target"]["of"]) == (1, 1)
    assert row["target"]["rounds"]["mean"] == 1
    assert row["target"]["bytes"]["mean"] == (200 + 400) / 2


def test_without_a_target_it_is_near_the_best_final_score(tmp_path):
    curves = {"mf": [0, 0.9, 0.6], "fw": [0, 0.2, 0.8]}
    rows = report.compare([make_run(tmp_path / name, curve, method=name) for name, curve in curves.items()])
    assert [row["target"]["value"] for row in rows] == [pytest.approx(0.95 * 0.8)] * 2
    assert [row["target"]["rounds"]["mean"] for row in rows] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f1-micr=0.5", "'f1_micr' is no metric; did you mean f1_micro?"),
        ("zzz=0.5", "'zzz' is no metric; one of miou, accuracy"),
        ("f1_micro", "the score must be a number in (0, 1], such as f1_micro=0.45"),
        ("f1_micro=45", "the score must be a number in (0, 1]"),
        ("f1_micro=nan", "the score must be a number in (0, 1]"),
    ],
)
def test_a_wrong_target_is_named(text, message):
    with pytest.raises(UserError) as caught:
        report.parse_target(text)
    assert message in str(caught.value)


def test_a_score_that_no_run_has_is_no_target(tmp_path):
    assert report.parse_target("miou=0.5") == ("miou", 0.5)
    with pytest.raises(UserError, match="--target miou: no run has this score; one of f1_micro, f1_macro"):
        report.compare([make_run(tmp_path / "mf", [0, 0.5])], target=("miou", 0.5))


def test_running_totals_need_every_line(tmp_path):
    run = make_run(tmp_path / "mf", [0, 0.1, 0.2], seconds=3)
    assert report.read_run(run).totals("bytes_up", "bytes_down") == {0: 0, 1: 200, 2: 500}
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"simulated_seconds": 3', '"simulated": 3', 1))
    assert report.read_run(run).totals("simulated_seconds") == {}
    assert report.read_run(run).simulated_seconds is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mf-seed0", "mf-seed1"], "mf"),
        (["resnet8-seed0-fold0", "resnet8-seed0-fold1"], "resnet8"),
        (["rate=0.001-seed0-fold3", "rate=0.001-seed1-fold3"], "rate=0.001"),
        (["size=16-seed10", "size=16-seed11"], "size=16"),
        (["run1", "run10"], "run"),
        (["run-1", "run-2"], "run"),
        (["mf-seed0"], "mf-seed0"),
    ],
)
def test_a_row_has_the_name_that_its_runs_share(tmp_path, names, expected):
    runs = [make_run(tmp_path / name, [0, 0.5], seed=i) for i, name in enumerate(names)]
    assert [row["name"] for row in report.compare(runs)] == [expected]


def many_runs(tmp_path):
    return [
        make_run(
            tmp_path / f"{method}-seed{seed}",
            [0.1, 0.4 + 0.01 * seed, 0.5 + gain + 0.01 * seed * (1 + gain)],
            seed=seed,
            method=method,
            algorithm="fedavg",
            sent=10**6,
            seconds=40.0,
            epsilon=8.0,
        )
        for method, gain in (("mf", 0.0), ("mf+fw+mim", 0.125))
        for seed in range(3)
    ]


def test_tables_as_they_are_printed(tmp_path, monkeypatch, capsys):
    runs = many_runs(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    main(["compare", *map(str, runs), "--target", "f1_micro=0.5", "--output", str(tmp_path / "all.png")])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "run score s1 s2 s1+s2 cost" in lines
    assert "mf+fw+mim Micro F1 0.318 ±.006 0.318 ±.006 0.636 ±.011 5 MB" in lines
    assert "fedavg, 2 rounds, seeds 0 1 2 Macro F1 0.159 ±.003 0.159 ±.003 0.318 ±.006 0.50 s" in lines
    assert "Until Micro F1 of s1+s2 reaches 0.500, at an evaluation" in lines
    assert "run reached rounds bytes simulated time FLOP, whole run ε" in lines
    assert "mf 3 of 3 2 5 MB 1 min 20 s 4 G 8" in lines
    assert "Difference from mf, runs paired by seed, with its 95 % t-interval" in lines
    difference = "+.126 [+.123, +.129]"
    assert any(line.startswith("mf+fw+mim Micro F1") and line.endswith(difference) for line in lines)
    assert sum(path.endswith(".png") for path in lines) == 3
    assert all((tmp_path / f"all{kind}.png").read_bytes()[:4] == b"\x89PNG" for kind in ("", "-bytes", "-time"))


@pytest.mark.parametrize("width", [80, 100])
def test_tables_fit_whole(tmp_path, width):
    from rich.console import Console

    rows = report.compare(many_runs(tmp_path))
    with (tmp_path / "out.txt").open("w") as file:
        for table in report.comparison_tables(rows, width):
            # Nothing is cut: the table asks for no more than there is.
            assert Console(width=200, file=file).measure(table).minimum <= width


def test_in_a_narrow_terminal_intervals_stand_under_their_differences(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    main(["compare", *map(str, many_runs(tmp_path))])
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("mf+fw+mim Micro F1 +"))
    assert lines[first].endswith("+.126")
    assert lines[first + 1].endswith("[+.123, +.129]")
    assert lines[first + 2].startswith("Macro F1")


def test_tables_in_markdown(tmp_path):
    runs = [
        *(
            make_run(tmp_path / f"a|b-seed{s}", [0, 0.4 + s / 10], seed=s, method="unified", algorithm="mf")
            for s in (0, 1)
        ),
        make_run(tmp_path / "c", [0, 0.7], algorithm="unified", finished=False),
    ]
    text = report.comparison_markdown(report.compare(runs))
    lines = text.splitlines()
    assert lines[2:4] == ["| run | score | s1 | s2 | s1+s2 | cost |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    assert lines[4] == (
        r"| **a\|b**<br>unified, mf, 1 round, seeds 0 1 | Micro F1<br>Macro F1 | 0.225 ±.035<br>0.113 ±.018 "
        r"| 0.225 ±.035<br>0.113 ±.018 | 0.450 ±.071<br>0.225 ±.035 | 200 B<br>0.50 s |"
    )
    assert "| **c**<br>1 pair | Micro F1<br>Macro F1 | +.150<br>+.075 | +.150<br>+.075 | +.300<br>+.150 |" in lines
    assert "| run | reached | rounds | bytes | FLOP, whole run |" in lines  # neither a clock nor privacy
    assert "| **c** | 1 of 1 | 1 | 200 B | - |" in lines
