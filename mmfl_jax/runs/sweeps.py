"""Sweeps: many studies one after the other, resumable, and their comparison."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from mmfl_jax import methods
from mmfl_jax.archives.base import Archive, Kept
from mmfl_jax.errors import UserError
from mmfl_jax.runs.directory import (
    CHECKPOINTS,
    CONFIG,
    FEDERATION,
    METRICS,
    PREDICTIONS,
    SUMMARY,
    check_same_study,
    write_whole,
)
from mmfl_jax.runs.loop import Stopped, run
from mmfl_jax.study import Study

#: Files of a sweep beside its runs.
COMPARISON, CACHE = "comparison", "cache"
_CACHE_OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
#: Bytes of images that a sweep keeps in memory from run to run, and the fields that decide which they are.
_KEEP, _ARCHIVE = 1 << 30, ("archive", "modalities", "image_size", "samples", "bands", "resampling", "seed")
# What a run that was killed before its first checkpoint has written.
_BEGUN = {CHECKPOINTS, CONFIG, FEDERATION, METRICS, SUMMARY, PREDICTIONS}


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
        Stopped: after SIGINT or SIGTERM, once the round is saved.
    """
    failed: dict[str, list[str]] = {}
    finished = []
    progress, opened = _Progress(len(studies), quiet), _Archives()
    with _compiled_kept(output / CACHE):
        for number, study in enumerate(studies, start=1):
            try:
                _run(study, output / study.name, number, progress, opened)
                finished.append(output / study.name)
            except UserError as error:
                failed.setdefault(" ".join(str(error).split()), []).append(study.name)
                progress.say(f"{number}/{len(studies)} {study.name} failed: {error}")
            except (KeyboardInterrupt, Stopped) as stop:
                raise _stopped(stop, number, len(studies), study.name) from None
    rows = _compare(finished, output, folds, quiet) if finished else []
    if failed:
        for line, names in failed.items():
            print(f"failed: {', '.join(names)}: {line}", file=sys.stderr)
        count = len(studies) - len(finished)
        raise UserError(f"{count} of {len(studies)} runs failed, as told above; the same command tries them again")
    return rows


def _run(study: Study, run_dir: Path, number: int, progress: _Progress, opened: _Archives) -> None:
    """Run a study to its end, from where it stands."""
    if (run_dir / SUMMARY).exists():
        check_same_study(run_dir, study)
        done = Study.from_json(run_dir / CONFIG).rounds
        if done != study.rounds:
            raise UserError(f"{run_dir} has finished with rounds {done}, not {study.rounds}; sweep in a new directory")
        return
    from mmfl_jax.build import check, open_federation
    from mmfl_jax.simulation import Simulation

    check(study)
    # Orbax renames a folder to the round's number when all is in it.
    saved = [int(path.name) for path in (run_dir / CHECKPOINTS).glob("*") if path.name.isdecimal()]
    if not saved:
        _clear(run_dir)
    progress.begin(number, study.name, max(saved, default=0))
    run(
        Simulation(study, open_federation(study, opened.of(study))),
        run_dir,
        resume=bool(saved),
        quiet=progress.no_rounds,
        report=False,
    )
    progress.end(number, study.name)


def _clear(run_dir: Path) -> None:
    """Remove what a run left that was killed before its first checkpoint.

    Raises:
        UserError: for a directory that holds anything else.
    """
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is no directory; sweep in a new one")
    other = [path.name for path in run_dir.iterdir() if path.name.removesuffix(".part") not in _BEGUN]
    if other:
        raise UserError(f"{run_dir} is not of a run that was begun here, it holds {other[0]}; sweep in a new directory")
    shutil.rmtree(run_dir)


def _stopped(stop: BaseException, number: int, total: int, name: str) -> Stopped:
    where = f"{stop.where} of {name}" if isinstance(stop, Stopped) else f"in {name}"
    caught = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
    return Stopped(caught, f"{where}, run {number} of {total}", "the same command continues")


def _compare(run_dirs: Sequence[Path], output: Path, folds: Sequence[str], quiet: bool) -> list[dict[str, Any]]:
    """Write and show the comparison of runs."""
    from mmfl_jax import report

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


@contextmanager
def _compiled_kept(folder: Path) -> Iterator[None]:
    """Keep compiled programs in a folder meanwhile: seeds and folds of one shape share their round."""
    from jax.experimental.compilation_cache import compilation_cache

    before = {option: getattr(jax.config, option) for option in _CACHE_OPTIONS}
    # JAX decides once in a process whether and where it keeps programs.
    compilation_cache.reset_cache()
    for option, value in zip(_CACHE_OPTIONS, (str(folder.resolve()), 0.5)):
        jax.config.update(option, value)
    try:
        yield
    finally:
        for option, value in before.items():
            jax.config.update(option, value)
        compilation_cache.reset_cache()


class _Archives:
    """Hold the archives of the last runs with their images, so that a sweep reads or draws each once."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Kept] = OrderedDict()

    def of(self, study: Study) -> Archive:
        """Return the archive of a study, kept while its images and the others' fit into ``_KEEP``."""
        from mmfl_jax.build import open_archive

        if methods.find(study.method).on_features:  # which are kept on disk
            return open_archive(study)
        key = tuple(getattr(study, field) for field in _ARCHIVE)
        kept = self._kept.pop(key, None)
        if kept is None:
            archive = open_archive(study)
            if archive.image_bytes > _KEEP:
                return archive
            kept = Kept(archive)
        self._kept[key] = kept
        while sum(other.image_bytes for other in self._kept.values()) > _KEEP:
            self._kept.popitem(last=False)
        return kept


class _Progress:
    """Say on standard error which run of how many it is, and how long the others will take."""

    def __init__(self, total: int, quiet: bool):
        self._total, self._quiet = total, quiet
        self._spent: list[float] = []
        self._began = 0.0
        #: Whether rounds are not shown: lines of many runs would bury what counts.
        self.no_rounds = quiet or not sys.stderr.isatty()

    def begin(self, number: int, name: str, done: int) -> None:
        self._began = time.monotonic()
        self.say(f"{number}/{self._total} {name}{f' from round {done}' if done else ''}")

    def end(self, number: int, name: str) -> None:
        from mmfl_jax.report.presentation import seconds_text

        self._spent.append(time.monotonic() - self._began)
        left = sum(self._spent) / len(self._spent) * (self._total - number)
        rest = f", {seconds_text(left)} left" if number < self._total else ""
        self.say(f"{number}/{self._total} {name} took {seconds_text(self._spent[-1])}{rest}")

    def say(self, line: str) -> None:
        if not self._quiet:
            print(line, file=sys.stderr, flush=True)
