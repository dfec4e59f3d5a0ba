"""The page of results says what runs say, and no more than their intervals do."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from test_comparison import make_run

from mmfl_jax.errors import UserError

PATH = Path(__file__).parents[1] / "experiments" / "results.py"


@pytest.fixture
def results():
    spec = importlib.util.spec_from_file_location("results", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_run_with(path, scores, summary, **options):
    """Write a run whose summary holds something more."""
    file = make_run(path, scores, **options) / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | summary))


def test_the_page_is_of_the_runs_alone(results, tmp_path, monkeypatch):
    tables = {
        "methods": results.Table("Which?", "quickstart", ("method=unified,mf,mf+fw",), seeds=3),
        "later": results.Table("And?", "quickstart", ("method=mf,unified",)),
    }
    monkeypatch.setattr(results, "TABLES", tables)
    ends = {"mf": (0.5, 0.61, 0.7), "mf+fw": (0.3, 0.7, 0.5), "unified": (0.4, 0.5, 0.6)}
    for method, scores in ends.items():
        for seed, score in enumerate(scores):
            path = tmp_path / "methods" / f"{method}-seed{seed}"
            make_run(path, [0.1, score], seed=seed, method=method)
    page = results.page(tmp_path)
    assert "## Which?" in page
    assert (
        "`mmfl-jax sweep quickstart --vary method=unified,mf,mf+fw --seeds 3 --run-dir RUNS/methods`, 9 of 9 runs"
        in page
    )
    assert "- mf is above unified in Micro F1 of s1+s2 (3 pairs)." in page
    assert "- mf+fw does not differ significantly from unified in Micro F1 of s1+s2 (3 pairs)." in page
    assert page.index("## Not measured yet") < page.index("- And? `mmfl-jax sweep")
    assert results.page(tmp_path / "elsewhere", page) == page  # where there are no runs, what is known stays
    (tmp_path / "methods" / "mf-seed2" / "summary.json").unlink()
    assert "8 of 9 runs" in results.page(tmp_path, page)
    (tmp_path / "methods" / "mf-seed1" / "summary.json").unlink()
    assert results.page(tmp_path, page) == page  # one seed of a row tells nothing: what was known stays
    assert "- Which? `mmfl-jax sweep" in results.page(tmp_path)


def test_options_are_chosen_by_validation_and_only_then_meet_the_test(results, tmp_path, monkeypatch):
    choice = results.Choice(
        "Which one?", "quickstart", ("--method", "mf"),
        {"plain": "", "slow": "--rounds 24", "adam": "--algorithm fedadam"},
        {"centralized": "--algorithm centralized"}, seeds=2,
    )  # fmt: skip
    monkeypatch.setattr(results, "TABLES", {"chosen": choice})
    # What the test would choose, slow, is not what validation samples choose.
    ends = {"plain": (0.50, 0.5), "slow": (0.60, 0.9), "adam": (0.70, 0.6), "centralized": (0.90, 0.8)}
    for name, (validated, tested) in ends.items():
        for seed in range(2):
            path = tmp_path / "chosen" / name / f"{name}-seed{seed}"
            validation = {"validation": {"s1+s2": {"f1_micro": validated, "f1_macro": 0.1}}}
            make_run_with(path, [0.1, tested + seed / 100], validation, seed=seed, algorithm=name)
    page = results.page(tmp_path)
    assert "| **adam**<br>`--algorithm fedadam` | 0.700 ± 0.000 | +0.200 [+0.200, +0.200] |" in page
    assert "| plain | 0.500 ± 0.000 |  |" in page
    assert "Validation samples choose **adam**." in page
    assert "- adam is above plain in Micro F1 of s1+s2 (2 pairs)." in page
    assert "- centralized is above plain in Micro F1 of s1+s2 (2 pairs)." in page
    assert "0.905" not in page  # the test's score of what was not chosen
    (tmp_path / "chosen" / "slow" / "slow-seed1" / "summary.json").unlink()
    page = results.page(tmp_path)
    assert "7 of 8 runs" in page
    assert "Nothing is chosen before all of them have been measured." in page


def test_owners_own_accuracy_stands_beside_that_of_the_shared_prompt(results, tmp_path, monkeypatch):
    table = results.Table("Own?", "fedrsclip_demo", ("method=fedrsclip,promptfl",), seeds=2)
    monkeypatch.setattr(results, "TABLES", {"scenes": table})
    for method, own in {"fedrsclip": 0.6, "promptfl": 0.4}.items():
        for seed in range(2):
            path = tmp_path / "scenes" / f"{method}-seed{seed}"
            make_run_with(path, [0.1, 0.3], {"personal": {"mean": own + seed / 10}}, seed=seed, method=method)
    page = results.page(tmp_path)
    assert "| **fedrsclip** | 0.650 ± 0.071 |  |" in page
    assert "| **promptfl** | 0.450 ± 0.071 | -0.200 [-0.200, -0.200] |" in page


def test_a_table_that_fails_does_not_keep_the_next_from_being_measured(results, tmp_path, monkeypatch):
    ran = []

    def main(command):
        ran.append(command[-1])
        if command[-1].endswith("twin-rare"):
            sys.exit(2)

    monkeypatch.setattr(results, "main", main)
    with pytest.raises(UserError, match="runs failed in twin-rare; the same command tries them again"):
        results.run(tmp_path, ["twin-rare", "twin-pairs"])
    assert ran == [str(tmp_path / "twin-rare"), str(tmp_path / "twin-pairs")]


def test_every_table_is_made_of_sweeps_that_can_be_made(results):
    from mmfl_jax.algorithms import find
    from mmfl_jax.algorithms.setting import Setting
    from mmfl_jax.cli.arguments import parse
    from mmfl_jax.cli.studies import Sweep
    from mmfl_jax.runs.grid import make_grid
    from mmfl_jax.study import load_study
    from mmfl_jax.study.build import check

    for name, table in results.TABLES.items():
        points = []
        for command in table.commands(name):
            chosen = parse(Sweep, name, command[2:], Sweep(study=load_study(table.study)))
            grid = make_grid(chosen.study, chosen.vary, chosen.folds, chosen.seeds)
            points += [chosen.study.replace(**point) for point in grid.points()]
        for study in points:
            check(study)
            training = study.training
            setting = Setting(training.client_optimizer, "samples", 10, 10, 9, {}, 1.0, training.rounds, True, True, ())
            find(study.algorithm.algorithm).check(setting)  # SCAFFOLD needs SGD, ...
        assert len(points) % table.seeds == 0
        assert len(points) >= 2 * table.seeds
        assert len({study.replace(name="any").to_json() for study in points}) == len(points), name
