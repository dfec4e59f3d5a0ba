"""Sweeps: many studies one after the other, resumable."""

from __future__ import annotations

import signal
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax

from mmfl_jax import methods
from mmfl_jax.archives.base import Archive, Kept
from mmfl_jax.errors import UserError
from mmfl_jax.files import writing
from mmfl_jax.lock import locked
from mmfl_jax.rounds import Rounds
from mmfl_jax.runs.checkpoints import saved_rounds
from mmfl_jax.runs.directory import CHECKPOINTS, begun, check_same_study
from mmfl_jax.runs.listeners import Listener
from mmfl_jax.runs.loop import run
from mmfl_jax.runs.schema import CONFIG, read_summary
from mmfl_jax.runs.signals import Stopped
from mmfl_jax.study import Study

#: Keeps compiled programs beside a sweep's runs.
CACHE = "cache"
_CACHE_OPTIONS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
#: Bytes of images that a sweep keeps in memory from run to run.
_KEEP = 1 << 30


class Progress(Protocol):
    """Hear of a sweep's runs."""

    def begin(self, number: int, name: str, done: int) -> None:
        """Hear that a run begins, or goes on from round ``done``."""

    def end(self, number: int, name: str) -> None:
        """Hear that a run has ended."""

    def failed(self, number: int, name: str, why: str) -> None:
        """Hear that a run failed."""


def sweep(
    studies: Sequence[Study], output: Path, progress: Progress, listeners: Callable[[], Sequence[Listener]] = tuple
) -> tuple[list[Path], dict[str, list[str]]]:
    """Run every study that has not finished yet into ``output / name``; called again, it goes on.

    Args:
        studies: with names of their own.
        output: of the run directories, locked meanwhile.
        progress: hears of the runs.
        listeners: makes what hears of a run's rounds.

    Returns:
        The directories of the runs that finished, and the names of those that failed by why they did.

    Raises:
        UserError: where another process sweeps.
        Stopped: after SIGINT, SIGTERM or SIGHUP, once the round is saved.
    """
    failed: dict[str, list[str]] = {}
    finished, kept = [], _Archives()
    with locked(output), _compiled_kept(output / CACHE):
        for number, study in enumerate(studies, start=1):
            try:
                _run(study, output / study.name, number, progress, listeners, kept)
                finished.append(output / study.name)
            except UserError as error:
                failed.setdefault(" ".join(str(error).split()), []).append(study.name)
                progress.failed(number, study.name, str(error))
            except (KeyboardInterrupt, Stopped) as stop:
                raise _stopped(stop, number, len(studies), study.name) from None
    return finished, failed


def _run(
    study: Study,
    run_dir: Path,
    number: int,
    progress: Progress,
    listeners: Callable[[], Sequence[Listener]],
    kept: _Archives,
) -> None:
    """Run a study to its end, from where it stands."""
    if summary := read_summary(run_dir):
        check_same_study(run_dir, study)
        done, rounds = summary["rounds"], study.training.rounds
        if done != rounds:
            raise UserError(f"{run_dir} has finished with rounds {done}, not {rounds}; sweep in a new directory")
        return
    from mmfl_jax.study.build import check, open_federation

    check(study)
    resume = run_dir.is_dir() and begun(run_dir)
    if resume and not (run_dir / CONFIG).is_file():
        held = sorted(path.name for path in run_dir.iterdir())[0]
        raise UserError(f"{run_dir} is not of a run that was begun here, it holds {held}; sweep in a new directory")
    progress.begin(number, study.name, max(saved_rounds(run_dir / CHECKPOINTS), default=0))
    simulation = Rounds(study, open_federation(study, kept.of(study)))
    run(simulation, run_dir, resume=resume, listeners=listeners())
    # Programs of the runs before would fill the memory (5 GB after 100 runs); those needed again are on disk.
    jax.clear_caches()
    progress.end(number, study.name)


def _stopped(stop: BaseException, number: int, total: int, name: str) -> Stopped:
    where = f"{stop.where} of {name}" if isinstance(stop, Stopped) else f"in {name}"
    caught = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
    return Stopped(caught, f"{where}, run {number} of {total}", "the same command continues")


@contextmanager
def _compiled_kept(folder: Path) -> Iterator[None]:
    """Keep compiled programs in a folder meanwhile: seeds and folds of one shape share their round."""
    from jax.experimental.compilation_cache import compilation_cache

    with writing(folder):
        folder.mkdir(exist_ok=True)
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
        from mmfl_jax.study.build import open_archive

        if methods.find(study.method.method).on_features:  # which are kept on disk
            return open_archive(study)
        key = study.data, study.data_seed
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
