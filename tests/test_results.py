"""The page of results says what runs say, and no more than their intervals do."""

import importlib.util
from pathlib import Path

from test_comparison import make_run

SPEC = importlib.util.spec_from_file_location("results", Path(__file__).parents[1] / "experiments" / "results.py")


def test_the_page_is_of_the_runs_alone(tmp_path, monkeypatch):
    results = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(results)
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
    assert "- mf+fw is not told apart from unified in Micro F1 of s1+s2 (3 pairs)." in page
    assert page.index("## Not measured yet") < page.index("- And? `mmfl-jax sweep")


def test_every_table_is_a_sweep_that_can_be_made():
    from mmfl_jax.cli.arguments import parse
    from mmfl_jax.cli.studies import Sweep
    from mmfl_jax.runs.grid import make_grid
    from mmfl_jax.study import load_study

    results = importlib.util.module_from_spec(SPEC)
    SPEC.loader.exec_module(results)
    for name, table in results.TABLES.items():
        command = table.command(name)[2:]
        chosen = parse(Sweep, name, command, Sweep(study=load_study(table.study)))
        points = list(make_grid(chosen.study, chosen.vary, chosen.folds, chosen.seeds).points())
        assert len(points) % table.seeds == 0
        assert len(points) >= 2 * table.seeds
