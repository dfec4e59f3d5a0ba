"""Write the run directory: configuration, federation, metrics and summary of one run on disk."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole, writing
from mmfl_jax.lock import LOCK, check_free, locked
from mmfl_jax.runs.listeners import Listener, Privacy
from mmfl_jax.runs.schema import CONFIG, FEDERATION, METRICS, SUMMARY, read_config, read_federation, read_metrics
from mmfl_jax.study import OPTIONS, Study

CHECKPOINTS = "checkpoints"
# What may differ between a run and its continuation: how long and how it runs, not what it computes.
_FREE = {"name", "rounds"} | {name for name, option in OPTIONS.items() if option.group == ("execution",)}


def fresh_run_dir(study: Study) -> Path:
    """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3``, ... that does not exist."""
    base = Path("runs") / study.name
    number = 1
    while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return path


def check(run_dir: Path, study: Study, resume: bool) -> None:
    """Raise UserError where a study cannot be run in a directory; write nothing.

    A directory that is not empty, is in use or cannot be written to is refused; to resume, also one of another study.
    """
    check_free(run_dir)
    _check_mine(run_dir, study, resume)
    there = next(path for path in (run_dir, *run_dir.resolve().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"--run-dir {run_dir}: cannot write to {there}; name a directory that can be written to")


def begun(run_dir: Path) -> bool:
    """Tell whether anything is there but what a run leaves that was killed at once."""
    left = {LOCK, f"{CONFIG}.part"}
    checkpoints = run_dir / CHECKPOINTS
    if checkpoints.is_dir() and not any(checkpoints.iterdir()):
        left.add(CHECKPOINTS)
    return run_dir.exists() and any(path.name not in left for path in run_dir.iterdir())


def _check_mine(run_dir: Path, study: Study, resume: bool) -> None:
    if resume:
        check_same_study(run_dir, study)
    elif run_dir.exists() and (not run_dir.is_dir() or begun(run_dir)):
        raise UserError(f"--run-dir {run_dir} exists; continue it with --resume, or name another directory")


class RunDirectory(Listener):
    """Write a run directory that is locked: no other process writes there.

    Attributes:
        path: the directory.
        rows: the lines of the metrics from before a resume.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._metrics: IO[bytes] | None = None

    def open(self, study: Study, federation: Mapping[str, Any], first: int) -> None:
        """Write what is known before training, and keep of the metrics those up to round ``first``, none before 1.

        Raises:
            UserError: for metrics that are damaged, or end before that round.
        """
        path = self.path / METRICS
        self.rows = [row for row in read_metrics(self.path) if row["round"] <= first] if first else []
        last = len(self.rounds())
        if last < first:
            raise UserError(
                f"{path}: ends with round {last}, but the checkpoint is of round {first}; delete checkpoints after "
                f"round {last} to resume from the one before, or start again in a new directory"
            )
        write_whole(self.path / CONFIG, study.to_json())
        write_whole(self.path / FEDERATION, json.dumps(federation))
        write_whole(path, "".join(json.dumps(row) + "\n" for row in self.rows))
        with writing(path):
            self._metrics = path.open("ab", buffering=0)

    def round(self, row: Mapping[str, Any]) -> None:
        """Add what was measured in a round to the metrics."""
        self._line({"kind": "round", **row})

    def evaluation(self, round: int, evaluation: Mapping[str, Mapping[str, Any]], privacy: Privacy = None) -> None:
        """Add scores to the metrics."""
        self._line({"kind": "evaluation", "round": round, "evaluation": evaluation, **(privacy or {})})

    def _line(self, row: dict[str, Any]) -> None:
        assert self._metrics is not None
        path = self.path / METRICS
        line = json.dumps(row).encode() + b"\n"
        with writing(path):
            if not os.fstat(self._metrics.fileno()).st_nlink:
                raise UserError(f"{path} was removed while the run wrote it; what came before is lost with it")
            if self._metrics.write(line) != len(line):
                raise OSError("the disk is full")

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary: with it a run has finished."""
        write_whole(self.path / SUMMARY, json.dumps(summary, indent=2))

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of the rounds."""
        return [row for row in self.rows if row["kind"] == "round"]

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()


@contextlib.contextmanager
def opened(run_dir: Path, study: Study, resume: bool) -> Iterator[RunDirectory]:
    """Lock a directory and give what writes it.

    Raises:
        UserError: see :func:`check`.
    """
    check(run_dir, study, resume)
    with locked(run_dir):
        _check_mine(run_dir, study, resume)  # as nobody can change it any more
        yield RunDirectory(run_dir)


def check_same_federation(run_dir: Path, federation: Mapping[str, Any]) -> None:
    """Raise UserError when a run was made on other clients, samples, classes or images than ``federation`` describes.

    Runs of before tell nothing of their images.
    """
    path, before = run_dir / FEDERATION, read_federation(run_dir)
    names, now = before["class_names"], federation["class_names"]
    advice = "give the archive and the federation that it was run on"
    if names != now:
        place = next((i for i, pair in enumerate(zip(names, now)) if pair[0] != pair[1]), min(len(names), len(now)))
        then, here = (repr(x[place]) if place < len(x) else "none" for x in (names, now))
        raise UserError(f"{path}: the run's class {place} is {then}, the archive's is {here} now; {advice}")
    if before["sha256"] != federation["sha256"]:
        raise UserError(f"{path}: the run's clients, samples or labels are not those found now; {advice}")
    for modality, images in before.get("images", {}).items():
        found = federation["images"].get(modality, {})
        for key in ("shape", "channels"):
            if images[key] != found.get(key):
                raise UserError(f"{path}: the run's {modality} has {key} {images[key]}, not {found.get(key)}; {advice}")
        if images["sha256"] != found["sha256"]:
            raise UserError(f"{path}: the run's images of {modality} are not those found now; {advice}")


def check_same_study(run_dir: Path, study: Study) -> None:
    """Raise UserError when a run was made with other options than ``study``'s that decide what it computes."""
    before = read_config(run_dir).flat()
    for field, value in study.flat().items():
        if field not in _FREE and before[field] != value:
            raise UserError(
                f"--resume: {run_dir / CONFIG} was run with {field} {before[field]!r}, not {value!r}; "
                "give the same options, or run in a new directory"
            )
    schedules = {study.training.learning_rate_schedule, study.algorithm.server_schedule}
    if schedules != {"constant"} and before["rounds"] != study.training.rounds:
        raise UserError(
            f"--resume: the cosine schedule was laid out for {before['rounds']} rounds, "
            f"not {study.training.rounds}; give the same --rounds"
        )
