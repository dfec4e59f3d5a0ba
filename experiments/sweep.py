"""Run many studies one after the other, and compare them: what the ablations beside this file share."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from mmfl_jax import Simulation, Study, report


def sweep(studies: Sequence[Study], output: Path, over: Sequence[str] = ("seed",)) -> None:
    """Run every study that has no summary yet, then print and draw the comparison.

    Args:
      studies: with names of their own; each gets the directory ``output / name``.
      output: of the run directories, ``comparison.json`` and ``comparison.png``.
      over: fields whose values are averaged over: seeds, folds.
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
        Simulation(study).run(run_dir, resume=run_dir.exists(), report=False)
        print(f"{number}/{len(studies)} {study.name} {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
    rows = report.compare(run_dirs, over=over)
    (output / "comparison.json").write_text(json.dumps(rows, indent=2, default=str))
    Console().print(report.comparison_table(rows))
    print(report.write_comparison(run_dirs, output / "comparison.png", over=over))
