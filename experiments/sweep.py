"""Run many studies one after the other, and compare them: what the ablations beside this file share."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from mmfl_jax import Simulation, Study, report


def sweep(studies: Sequence[Study], output: Path, folds: Sequence[str] = ()) -> None:
    """Run every study that has no summary yet, then print and draw the comparison.

    Args:
      studies: with names of their own; each gets the directory ``output / name``.
      output: of the run directories, ``comparison.json`` and ``comparison.png``.
      folds: fields to average over before the mean and spread over seeds are taken.
    """
    # Seeds and folds of one shape share their compiled round.
    jax.config.update("jax_compilation_cache_dir", str(output / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    run_dirs = []
    for number, study in enumerate(studies, start=1):
        run_dir = output / study.name
        run_dirs.append(run_dir)
        if (run_dir / "summary.json").exists():
            continue
        begin = time.perf_counter()
        saved = any((run_dir / "checkpoints").glob("[0-9]*"))
        if not saved:
            shutil.rmtree(run_dir, ignore_errors=True)  # killed before its first checkpoint
        Simulation(study).run(run_dir, resume=saved, report=False)
        print(f"{number}/{len(studies)} {study.name} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    rows = report.compare(run_dirs, folds=folds)
    (output / "comparison.json").write_text(json.dumps(rows, indent=2, default=str))
    Console().print(report.comparison_table(rows))
    print(report.write_comparison(run_dirs, output / "comparison.png", folds=folds))
