"""What commands and scripts do with runs: run with progress and a report, sweep with a comparison."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmfl_jax import cluster, report, runs
from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole
from mmfl_jax.report.terminal import RoundProgress, SweepProgress
from mmfl_jax.runs.directory import CHECKPOINTS
from mmfl_jax.study import Study

if TYPE_CHECKING:
    from mmfl_jax.rounds import Rounds

#: Files of a sweep beside its runs.
COMPARISON = "comparison"


def run(
    simulation: Rounds,
    run_dir: Path | None = None,
    *,
    resume: bool = False,
    quiet: bool = True,
    tensorboard: bool = False,
    bounds: bool = False,
    write_report: bool = True,
) -> dict[str, Any]:
    """Run a simulation to its study's last round, show how it goes and write its report; return the summary.

    Args:
        simulation: to run.
        run_dir: where to write; None writes nothing.
        resume: continue from the last checkpoint in ``run_dir``.
        quiet: show no progress.
        tensorboard: write TensorBoard files too.
        bounds: run the two bounds too (:func:`mmfl_jax.runs.run_bounds`), which needs ``run_dir``.
        write_report: write figures and report.html at the end.

    Raises:
        UserError: see :func:`mmfl_jax.runs.run`.
    """
    listeners: list[runs.Listener] = [RoundProgress(quiet)]
    if tensorboard and run_dir is None:
        raise UserError("--tensorboard needs --run-dir")
    if tensorboard and run_dir is not None and cluster.leads():
        listeners.append(report.TensorBoardWriter(run_dir))
    if resume and run_dir is not None and run_dir.is_dir() and not runs.saved_rounds(run_dir / CHECKPOINTS):
        warnings.warn(f"--resume: {run_dir} has no checkpoint; the run starts from round 0 again", stacklevel=2)
    summary = runs.run(simulation, run_dir, resume=resume, listeners=listeners)
    if run_dir is not None and bounds:
        summary = runs.run_bounds(simulation, run_dir, lambda: [RoundProgress(quiet)])
    if run_dir is not None and write_report and cluster.leads():
        try:
            report.write_report(run_dir)
        except ModuleNotFoundError as error:  # a host with the engine alone: the numbers are all there
            print(f"no report.html: {error.name} is not installed")
    return summary


def sweep(
    studies: Sequence[Study], output: Path, folds: Sequence[str] = (), *, quiet: bool = False
) -> list[dict[str, Any]]:
    """Run every study that has not finished yet, then compare all of them; called again, it goes on.

    Writes each run into ``output / name``, and ``comparison.json``, ``.md`` and ``.png`` beside them.

    Args:
        studies: with names of their own.
        output: of the run directories.
        folds: fields to average over before the mean and spread over seeds are taken.
        quiet: show no progress and no tables.

    Returns:
        The rows of :func:`mmfl_jax.report.compare`, of the runs that finished.

    Raises:
        UserError: after the comparison, when runs failed; each is told on standard error.
        Stopped: after SIGINT, SIGTERM or SIGHUP, once the round is saved.
    """
    progress = SweepProgress(len(studies), quiet)
    finished, failed = runs.sweep(studies, output, progress, lambda: [RoundProgress(progress.no_rounds)])
    rows = _compare(finished, output, folds, quiet) if finished else []
    if failed:
        for line, names in failed.items():
            print(f"failed: {', '.join(names)}: {line}", file=sys.stderr)
        count = len(studies) - len(finished)
        raise UserError(f"{count} of {len(studies)} runs failed, as told above; the same command tries them again")
    return rows


def _compare(run_dirs: Sequence[Path], output: Path, folds: Sequence[str], quiet: bool) -> list[dict[str, Any]]:
    """Write and show the comparison of runs."""
    rows = report.compare(run_dirs, folds=folds)
    write_whole(output / f"{COMPARISON}.json", json.dumps(rows, indent=2, default=str))
    write_whole(output / f"{COMPARISON}.md", report.comparison_markdown(rows))
    written = report.write_comparison(run_dirs, output / f"{COMPARISON}.png", folds=folds)
    if not quiet:
        from rich.console import Console

        for table in report.comparison_tables(rows):
            Console().print(table)
        print(*(output / f"{COMPARISON}{ending}" for ending in (".json", ".md")), *written, sep="\n")
    return rows
