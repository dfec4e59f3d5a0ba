"""The loop: a simulation from its first round to its last, with metrics, checkpoints, summary and report on disk."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import jax

from mmfl_jax import build_clip
from mmfl_jax.errors import Diverged, UserError
from mmfl_jax.evaluation import personal
from mmfl_jax.runs.checkpoints import Checkpoints
from mmfl_jax.runs.directory import CHECKPOINTS, CONFIG, SUMMARY, Writer, check_same_federation, write_whole
from mmfl_jax.study import Study

if TYPE_CHECKING:
    from mmfl_jax.federation import Federation
    from mmfl_jax.report.terminal import RoundProgress
    from mmfl_jax.simulation import Simulation

_PACKAGES = ("mmfl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Stopped(Exception):
    """Say that a signal ended the run after its round, with everything saved.

    Attributes:
        signal: its number.
        where: what had been done, such as "after round 3 of 20".
    """

    def __init__(self, signal_number: int, where: str, advice: str = ""):
        self.signal, self.where = signal_number, where
        super().__init__(f"stopped by {signal.Signals(signal_number).name} {where}{advice and '; '}{advice}")


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
        UserError: see :class:`mmfl_jax.runs.directory.Writer`.
        Diverged: where no client's update is finite, or the scores are not.
        Stopped: after SIGINT or SIGTERM, once the round is saved.
    """
    from mmfl_jax.report.terminal import RoundProgress  # the report reads runs: it is imported where it is used

    study = simulation.study
    writer = Writer(run_dir, study, resume)
    with ExitStack() as stack:
        board = _tensorboard(run_dir, stack) if tensorboard else None
        checkpoints = None
        if run_dir is not None:
            run_dir.mkdir(parents=True, exist_ok=True)
            checkpoints = Checkpoints(run_dir / CHECKPOINTS)
            stack.callback(checkpoints.close)
            if resume:
                check_same_federation(run_dir, simulation.federation.digest())
                _, simulation.state = checkpoints.restore(simulation.state)
        first = simulation.round_number
        if first > study.rounds:
            raise UserError(f"--resume: {run_dir} has done {first} rounds already; give --rounds {first} or more")
        writer.open(study, simulation.federation.describe(), first)
        stack.callback(writer.close)
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
                where = f"after round {simulation.round_number} of {study.rounds}"
                raise Stopped(caught[0], where, f"continue with --resume --run-dir {run_dir}" if run_dir else "")
        summary = loop.summary()
    if run_dir is not None:
        write_whole(run_dir / SUMMARY, json.dumps(summary, indent=2))
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
        self.scores: dict[str, dict[str, Any]] = {}
        self.scored = -1  # the round of these scores

    def round(self, last: bool) -> None:
        study = self.simulation.study
        row = self.simulation.run_round()
        number = row["round"]
        if row["skipped_clients"] >= row["clients"] * self.simulation.repeats > 0:
            raise self._diverged(number, "no client's update is finite")
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
        try:
            self.scores, self.scored = self.simulation.evaluate(), number
        except Diverged as error:
            raise self._diverged(number, str(error)) from None
        privacy = self.simulation.privacy() or {}
        self.writer.line("evaluation", round=number, evaluation=self.scores, **privacy)
        for listener in (self.progress, self.board):
            if listener is not None:
                listener.evaluation(number, self.scores, privacy.get("epsilon"))

    def _diverged(self, number: int, what: str) -> Diverged:
        last = f", the last finite scores are of round {self.scored}" if self.scores else ""
        saved = self.checkpoints.rounds() if self.checkpoints is not None else []
        kept = f"; the checkpoint of round {saved[-1]} is kept" if saved else ""
        return Diverged(
            f"round {number}: {what}{last}{kept}. Lower --client-learning-rate, or take an algorithm that bounds what "
            "clients send, such as --algorithm median"
        )

    def save(self) -> None:
        if self.checkpoints is not None:
            if self.scored != self.simulation.round_number:
                self.evaluate()
            self.checkpoints.save(self.simulation.round_number, self.simulation.state, _score(self.scores))

    def summary(self) -> dict[str, Any]:
        simulation, rows = self.simulation, self.writer.rounds()
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
                "total_bytes": sum(sent),
            },
            "cost": {
                **simulation.cost(),
                "seconds_per_round": seconds[len(seconds) // 2] if seconds else None,
                "padding_waste": sum(row["padding_waste"] for row in rows) / len(rows) if rows else None,
            },
            "privacy": simulation.privacy(),
            "simulated_seconds": sum(row.get("simulated_seconds", 0.0) for row in rows) or None,
            "skipped_clients": sum(row["skipped_clients"] for row in rows),
            "state_sha256": simulation.digest(),
            "versions": versions(),
            "archive": simulation.federation.archive.describe(),
        }
        accuracy = simulation.evaluate_personal()
        if accuracy is not None:
            summary["personal"] = personal.summarize(accuracy)
            summary["clip"] = build_clip.facts(simulation.study) if simulation.own_model else {}
        if self.writer.run_dir is not None:
            from mmfl_jax.report import predictions

            predictions.keep(simulation, self.writer.run_dir, accuracy)
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


def load(run_dir: Path, federation: Federation | None = None, *, best: bool = False) -> Simulation:
    """Return the simulation of a run directory, finished or stopped, with the state of a checkpoint.

    Args:
        run_dir: of the run.
        federation: the run's own, if it was made in Python; None to open what its study names.
        best: take the checkpoint with the best score on the test samples, not the last.

    Raises:
        UserError: for another federation than the run's, or a checkpoint that is missing or damaged.
    """
    from mmfl_jax.simulation import Simulation

    simulation = Simulation(Study.from_json(run_dir / CONFIG), federation)
    check_same_federation(run_dir, simulation.federation.digest())
    checkpoints = Checkpoints(run_dir / CHECKPOINTS, read_only=True)
    try:
        _, simulation.state = checkpoints.restore(simulation.state, checkpoints.best() if best else None)
    finally:
        checkpoints.close()
    return simulation
