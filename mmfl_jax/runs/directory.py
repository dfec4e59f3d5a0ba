"""Write the run directory: configuration, federation, metrics and summary of one run on disk."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import IO, Any

from mmfl_jax.errors import UserError
from mmfl_jax.study import Study

CONFIG, FEDERATION, METRICS, SUMMARY = "config.json", "federation.json", "metrics.jsonl", "summary.json"
CHECKPOINTS, PREDICTIONS = "checkpoints", "predictions.npz"
# What may differ between a run and its continuation: how long and how it runs, not what it computes.
_FREE = {
    "name",
    "rounds",
    "chunk_size",
    "devices",
    "stream_mb",
    "evaluate_every",
    "evaluate_clients",
    "checkpoint_every",
    "feature_cache",
}


def fresh_run_dir(study: Study) -> Path:
    """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3``, ... that does not exist."""
    base = Path("runs") / study.name
    number = 1
    while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return path


class Writer:
    """Write a run directory; without a directory, write nothing.

    Args:
        run_dir: the directory, or None.
        study: what is run.
        resume: go on with what is there, instead of refusing it.

    Raises:
        UserError: for a directory that is not empty or cannot be written to, or, to resume, not one of this study.
    """

    def __init__(self, run_dir: Path | None, study: Study, resume: bool):
        self.run_dir = run_dir
        self._metrics: IO[str] | None = None
        self._rows: list[dict[str, Any]] = []
        if run_dir is None:
            if resume:
                raise UserError("--resume needs --run-dir, the directory of the run to continue")
            return
        if resume:
            check_same_study(run_dir, study)
        elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise UserError(f"--run-dir {run_dir} exists; continue it with --resume, or name another directory")
        there = next(path for path in (run_dir, *run_dir.resolve().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--run-dir {run_dir}: cannot write to {there}; name a directory that can be written to")

    def open(self, study: Study, federation: dict[str, Any], round_number: int) -> None:
        """Write what is known before training, and keep of the metrics those up to ``round_number``."""
        if self.run_dir is None:
            return
        write_whole(self.run_dir / CONFIG, study.to_json())
        write_whole(self.run_dir / FEDERATION, json.dumps(federation))
        self._rows = [row for row in _read_rows(self.run_dir / METRICS) if row["round"] <= round_number]
        write_whole(self.run_dir / METRICS, "".join(json.dumps(row) + "\n" for row in self._rows))
        self._metrics = (self.run_dir / METRICS).open("a")

    def line(self, kind: str, **values: Any) -> None:
        """Add a line to the metrics."""
        self._rows.append({"kind": kind, **values})
        if self._metrics is not None:
            self._metrics.write(json.dumps(self._rows[-1]) + "\n")
            self._metrics.flush()

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def rounds(self) -> list[dict[str, Any]]:
        """Return the lines of all rounds, also those before a resume."""
        return [row for row in self._rows if row["kind"] == "round"]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a file; the last one may have been cut off by a kill."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.endswith("\n"):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise UserError(f"{path}: line {number} is not valid JSON ({error.msg}); delete it to resume") from None
    return rows


def check_same_federation(run_dir: Path, digest: str) -> None:
    """Raise UserError when a run was made on other clients or samples than those of ``digest``."""
    path = run_dir / FEDERATION
    before = json.loads(path.read_text()).get("sha256") if path.exists() else None
    if before is not None and before != digest:
        raise UserError(
            f"{path}: the run's clients, samples or labels are not those found now; give the archive and the "
            "federation that it was run on"
        )


def write_whole(path: Path, text: str) -> None:
    """Write ``text``, the whole of it or nothing: a kill leaves the file as it was."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def check_same_study(run_dir: Path, study: Study) -> None:
    """Raise UserError when a run was made with other options than ``study``'s that decide what it computes."""
    before = dataclasses.asdict(Study.from_json(run_dir / CONFIG))
    for field, value in dataclasses.asdict(study).items():
        if field not in _FREE and before[field] != value:
            raise UserError(
                f"--resume: {run_dir / CONFIG} was run with {field} {before[field]!r}, not {value!r}; "
                "give the same options, or run in a new directory"
            )
    schedules = {study.learning_rate_schedule, study.server_schedule}
    if schedules != {"constant"} and before["rounds"] != study.rounds:
        raise UserError(
            f"--resume: the cosine schedule was laid out for {before['rounds']} rounds, "
            f"not {study.rounds}; give the same --rounds"
        )
