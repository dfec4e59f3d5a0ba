"""Run directories: a study's rounds with configuration, metrics, checkpoints, summary and report on disk."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

import jax

from mmfl_jax.checkpoint import Checkpoints
from mmfl_jax.errors import UserError
from mmfl_jax.report.terminal import RoundProgress
from mmfl_jax.study import Study

if TYPE_CHECKING:
    from mmfl_jax.simulation import Simulation

CONFIG, FEDERATION, METRICS, SUMMARY = "config.json", "federation.json", "metrics.jsonl", "summary.json"
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
}
_PACKAGES = ("mmfl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Stopped(Exception):
    """Say that a signal ended the run after its round, with everything saved.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal_number: int, round_number: int, rounds: int, run_dir: Path | None):
        self.signal = signal_number
        kept = f"; continue with --resume --run-dir {run_dir}" if run_dir else ""
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after round {round_number} of {rounds}{kept}"
        )


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
        if run_dir is None:
            if resume:
                raise UserError("--resume needs --run-dir, the directory of the run to continue")
            return
        if resume:
            _check_same_study(run_dir, study)
        elif run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
            raise UserError(f"--run-dir {run_dir} exists; continue it with --resume, or name another directory")
        there = next(path for path in (run_dir, *run_dir.resolve().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"--run-dir {run_dir}: cannot write to {there}; name a directory that can be written to")

    def open(self, study: Study, federation: dict[str, Any], round_number: int) -> None:
        """Write what is known before training, and keep of the metrics those up to ``round_number``."""
        if self.run_dir is None:
            return
        _write(self.run_dir / CONFIG, study.to_json())
        _write(self.run_dir / FEDERATION, json.dumps(federation))
        kept = [line for line in _lines(self.run_dir / METRICS) if json.loads(line)["round"] <= round_number]
        _write(self.run_dir / METRICS, "".join(kept))
        self._metrics = (self.run_dir / METRICS).open("a")

    def line(self, kind: str, **values: Any) -> None:
        """Add a line to the metrics."""
        if self._metrics is not None:
            self._metrics.write(json.dumps({"kind": kind, **values}) + "\n")
            self._metrics.flush()

    def close(self) -> None:
        """Close the metrics."""
        if self._metrics is not None:
            self._metrics.close()

    def bytes_so_far(self) -> int:
        """Return the bytes sent in all rounds of the metrics, also those before a resume."""
        assert self.run_dir is not None
        rows = [json.loads(line) for line in _lines(self.run_dir / METRICS)]
        return sum(row["bytes_up"] + row["bytes_down"] for row in rows if row["kind"] == "round")


def _lines(path: Path) -> list[str]:
    """Return the whole lines of a file; the last one may have been cut off by a kill."""
    text = path.read_text() if path.exists() else ""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _write(path: Path, text: str) -> None:
    # A rename replaces the file whole or not at all.
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def _check_same_study(run_dir: Path, study: Study) -> None:
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


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a round ends and is saved; a second one ends the process at once."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread (a notebook's kernel may run cells so): no handler, nothing to collect
        yield caught
        return
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    simulation: Simulation,
    run_dir: Path | None,
    *,
    resume: bool = False,
    quiet: bool = True,
    tensorboard: bool = False,
    report: bool = True,
) -> dict[str, Any]:
    """Run a simulation to its study's last round; return the summary.

    Args:
        simulation: to run.
        run_dir: where to write; None writes nothing.
        resume: continue from the last checkpoint in ``run_dir``.
        quiet: show no progress.
        tensorboard: write TensorBoard files too.
        report: write figures and report.html at the end.

    Raises:
        UserError: see :class:`Writer`.
        Stopped: after SIGINT or SIGTERM, once the round is saved.
    """
    study = simulation.study
    writer = Writer(run_dir, study, resume)
    with ExitStack() as stack:
        checkpoints = None
        if run_dir is not None:
            run_dir.mkdir(parents=True, exist_ok=True)
            checkpoints = Checkpoints(run_dir / "checkpoints")
            stack.callback(checkpoints.close)
            if resume:
                _, simulation.state = checkpoints.restore(simulation.state)
        first = simulation.round_number
        if first > study.rounds:
            raise UserError(f"--resume: {run_dir} has done {first} rounds already; give --rounds {first} or more")
        writer.open(study, simulation.federation.describe(), first)
        stack.callback(writer.close)
        board = _tensorboard(run_dir, stack) if tensorboard else None
        progress = stack.enter_context(RoundProgress(study.rounds, first, quiet))
        caught = stack.enter_context(_signals())
        loop = _Loop(simulation, writer, checkpoints, progress, board)
        if first == 0:
            loop.evaluate()
        for number in range(first + 1, study.rounds + 1):
            last = number == study.rounds or bool(caught)
            loop.round(last)
            if caught:
                loop.save()
                raise Stopped(caught[0], simulation.round_number, study.rounds, run_dir)
        summary = loop.summary()
    if run_dir is not None:
        _write(run_dir / SUMMARY, json.dumps(summary, indent=2))
        if report:
            _report(run_dir)
    return summary


class _Loop:
    """Hold what the rounds of one run share."""

    def __init__(
        self,
        simulation: Simulation,
        writer: Writer,
        checkpoints: Checkpoints | None,
        progress: RoundProgress,
        board: Any,
    ):
        self.simulation, self.writer, self.checkpoints = simulation, writer, checkpoints
        self.progress, self.board = progress, board
        self.rows: list[dict[str, Any]] = []
        self.scores: dict[str, dict[str, Any]] = {}

    def round(self, last: bool) -> None:
        study = self.simulation.study
        row = self.simulation.run_round()
        number = row["round"]
        self.rows.append(row)
        self.writer.line("round", **row)
        for listener in (self.progress, self.board):
            if listener is not None:
                listener.round(row)
        if number % study.evaluate_every == 0 or last:
            self.evaluate()
        if number % study.checkpoint_every == 0 or last:
            self.save()

    def evaluate(self) -> None:
        number = self.simulation.round_number
        self.scores = self.simulation.evaluate()
        self.writer.line("evaluation", round=number, evaluation=self.scores)
        for listener in (self.progress, self.board):
            if listener is not None:
                listener.evaluation(number, self.scores)

    def save(self) -> None:
        if self.checkpoints is not None:
            self.checkpoints.save(self.simulation.round_number, self.simulation.state, _score(self.scores))

    def summary(self) -> dict[str, Any]:
        simulation, rows = self.simulation, self.rows
        if not self.scores:  # resumed after the last round, whose scores the metrics have
            self.scores = simulation.evaluate()
        seconds = sorted(row["seconds"] for row in rows)
        sent = [sum(row[key] for row in rows) for key in ("bytes_up", "bytes_down")]
        took_part = max(1, sum(row["clients"] for row in rows))
        summary = {
            "rounds": simulation.round_number,
            "evaluation": self.scores,
            "baseline": simulation.baseline(),
            "communication": {
                "bytes_up_per_client": sent[0] / took_part,
                "bytes_down_per_client": sent[1] / took_part,
                "total_bytes": self.writer.bytes_so_far() if self.writer.run_dir else sum(sent),
            },
            "cost": {
                **simulation.cost(),
                "seconds_per_round": seconds[len(seconds) // 2] if seconds else None,
                "padding_waste": sum(row["padding_waste"] for row in rows) / len(rows) if rows else None,
            },
            "skipped_clients": sum(row["skipped_clients"] for row in rows),
            "state_sha256": simulation.digest(),
            "versions": versions(),
            "archive": simulation.federation.archive.describe(),
        }
        if simulation.study.evaluate_clients:
            summary["clients"] = simulation.evaluate_clients()
        return summary


def _score(scores: dict[str, dict[str, Any]]) -> float:
    """Return the score that the best checkpoint has: the mean of the fused set's F1s, or accuracy and macro-F1."""
    if not scores:
        return 0.0
    fused = max(scores, key=lambda name: name.count("+"))
    values = [scores[fused].get(key) for key in ("f1_micro", "f1_macro")]
    return sum(value or 0.0 for value in values) / len(values)


def _tensorboard(run_dir: Path | None, stack: ExitStack) -> Any:
    from mmfl_jax.report.tensorboard import TensorBoardWriter

    if run_dir is None:
        raise UserError("--tensorboard needs --run-dir")
    return stack.enter_context(TensorBoardWriter(run_dir))


def _report(run_dir: Path) -> None:
    try:
        from mmfl_jax.report import write_report

        write_report(run_dir)
    except ModuleNotFoundError as error:  # a host with the engine alone: the numbers are all there
        print(f"no report.html: {error.name} is not installed")


def versions() -> dict[str, str]:
    """Return the versions of what a result depends on, and the hardware."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    device = jax.devices()[0]
    return {**found, "platform": device.platform, "device": f"{jax.device_count()} x {device.device_kind}"}


def fresh_run_dir(study: Study) -> Path:
    """Return ``runs/NAME``, or the first of ``runs/NAME-2``, ``-3``, ... that does not exist."""
    base = Path("runs") / study.name
    number = 1
    while (path := base if number == 1 else base.with_name(f"{base.name}-{number}")).exists():
        number += 1
    return path


def load(run_dir: Path) -> Simulation:
    """Return the simulation of a run directory, finished or stopped, with the state of its last checkpoint."""
    from mmfl_jax.simulation import Simulation

    simulation = Simulation(Study.from_json(run_dir / CONFIG))
    checkpoints = Checkpoints(run_dir / "checkpoints")
    try:
        _, simulation.state = checkpoints.restore(simulation.state)
    finally:
        checkpoints.close()
    return simulation
