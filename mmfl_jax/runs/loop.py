"""The loop: a simulation from its first round to its last, with metrics, checkpoints and summary on disk."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from mmfl_jax import cluster
from mmfl_jax.errors import Diverged, UserError
from mmfl_jax.evaluation import personal
from mmfl_jax.lock import LOCK
from mmfl_jax.rounds import Rounds
from mmfl_jax.runs import predictions
from mmfl_jax.runs.checkpoints import Checkpoints, saved_rounds
from mmfl_jax.runs.directory import CHECKPOINTS, RunDirectory, check_same_federation, opened
from mmfl_jax.runs.listeners import Listener
from mmfl_jax.runs.schema import read_config
from mmfl_jax.runs.signals import Stopped, graceful
from mmfl_jax.runs.values import fused_set, is_number
from mmfl_jax.study import build_clip

if TYPE_CHECKING:
    from mmfl_jax.federation import Federation

_PACKAGES = ("mmfl_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def run(
    simulation: Rounds, run_dir: Path | None, *, resume: bool = False, listeners: Sequence[Listener] = ()
) -> dict[str, Any]:
    """Run a simulation to its study's last round; return the summary.

    Args:
        simulation: to run.
        run_dir: where to write, locked meanwhile; None writes nothing.
        resume: continue from the last checkpoint in ``run_dir``, or from the start where none was finished.
        listeners: hear of every round, after the metrics are written.

    Raises:
        UserError: see :func:`mmfl_jax.runs.directory.check`; for what cannot be written, when it is to be written.
        Diverged: where no client's update is finite, or the scores are not.
        Stopped: after SIGINT, SIGTERM or SIGHUP, once the round is saved.
    """
    if run_dir is None and resume:
        raise UserError("--resume needs --run-dir, the directory of the run to continue")
    study = simulation.study
    # A fault in the data shows before the first round, not after the last.
    facts = _facts(simulation) if cluster.leads() else {}
    with ExitStack() as stack:
        heard, disk, first = list(listeners), None, simulation.round_number
        if run_dir is not None:
            disk = stack.enter_context(_disk(simulation, run_dir, resume, facts))
            first = simulation.round_number
            heard[:0] = [disk.directory] if disk.directory is not None else []
        for listener in heard:
            stack.callback(listener.close)
            listener.begin(first, study.training.rounds)
        loop = _Loop(simulation, disk, heard)
        stack.enter_context(cluster.ending(Stopped, Diverged, advice=loop.advice))
        if first == 0:
            loop.evaluate()
        if first < study.training.rounds:
            simulation.compile()
        with graceful() as caught:
            for number in range(first + 1, study.training.rounds + 1):
                loop.round(number == study.training.rounds)
                if stop := cluster.most(caught[0] if caught else 0):
                    loop.save()
                    where = f"after round {number} of {study.training.rounds}"
                    raise Stopped(stop, where, f"continue with --resume --run-dir {run_dir}" if run_dir else "")
        summary = loop.summary(facts)
        if disk is not None:
            disk.checkpoints.wait()
            if disk.directory is not None:
                disk.directory.summary(summary)
    return summary


class _Disk:
    """Hold what a run writes: the directory only where this process leads, the checkpoints on every host."""

    def __init__(self, directory: RunDirectory | None, checkpoints: Checkpoints):
        self.directory, self.checkpoints = directory, checkpoints


@contextmanager
def _disk(simulation: Rounds, run_dir: Path, resume: bool, facts: dict[str, Any]) -> Iterator[_Disk]:
    """Open a run directory, and restore what it has saved."""
    study = simulation.study
    with ExitStack() as stack:
        directory = stack.enter_context(opened(run_dir, study, resume)) if cluster.leads() else None
        if cluster.several():
            cluster.most(0)  # process 0 has made the directory
            seen = {"its lock": (run_dir / LOCK).exists(), "checkpoints": saved_rounds(run_dir / CHECKPOINTS)}
            cluster.agree({f"files in {run_dir} (is it on a disk that all share?)": seen})
        checkpoints = stack.enter_context(closing(Checkpoints(run_dir / CHECKPOINTS, simulation.placement)))
        with cluster.ending():
            if checkpoints.rounds():
                if directory is not None:
                    check_same_federation(run_dir, facts["federation"])
                _restore(simulation, checkpoints)
            first = simulation.round_number
            if first > study.training.rounds:
                raise UserError(f"--resume: {run_dir} has done {first} rounds already; give --rounds {first} or more")
            if directory is not None:
                directory.open(study, facts["federation"], first)
        yield _Disk(directory, checkpoints)


def _restore(simulation: Rounds, checkpoints: Checkpoints, round_number: int | None = None) -> None:
    chosen, simulation.state = checkpoints.restore(simulation.state, round_number)
    if simulation.round_number != chosen:
        raise UserError(
            f"checkpoint {checkpoints.directory / str(chosen)} holds round {simulation.round_number}, not {chosen}: it "
            "was renamed; give it its own number, or delete it"
        )


def _facts(simulation: Rounds) -> dict[str, Any]:
    """Return what the files of a run say of the data and the machine; it is the same before and after the rounds.

    Raises:
        UserError: for what cannot be said as JSON.
    """
    federation = simulation.federation
    facts = {
        "federation": federation.describe(),
        "archive": federation.archive.describe(),
        "baseline": simulation.baseline(),
        "versions": versions(),
    }
    try:
        json.dumps(facts)
    except (TypeError, ValueError) as error:
        raise UserError(f"archive {federation.archive.name}: what it says of itself is no JSON ({error})") from None
    return facts


class _Loop:
    """Hold what the rounds of one run share."""

    def __init__(self, simulation: Rounds, disk: _Disk | None, listeners: Sequence[Listener]):
        self.simulation, self.disk, self.listeners = simulation, disk, listeners
        self.rows: list[dict[str, Any]] = [] if disk is None or disk.directory is None else disk.directory.rounds()
        self.scores: dict[str, dict[str, Any]] = {}
        self.scored = -1  # the round of these scores
        self.validated: tuple[int, dict[str, dict[str, Any]]] = -1, {}  # likewise, of validation samples
        self.done = simulation.round_number

    def round(self, last: bool) -> None:
        study = self.simulation.study
        row = self.simulation.run_round()
        self.done = number = row["round"]
        if row["skipped_clients"] >= row["clients"] * self.simulation.repeats > 0:
            raise self._diverged(number, "no client's update is finite")
        self.rows.append(row)
        for listener in self.listeners:
            listener.round(row)
        if number % study.execution.evaluate_every == 0 or last:
            self.evaluate()
        if number % study.execution.checkpoint_every == 0 or last:
            self.save()

    def evaluate(self) -> None:
        number = self.simulation.round_number
        try:
            self.scores, self.scored = self.simulation.evaluate(), number
        except Diverged as error:
            raise self._diverged(number, str(error)) from None
        privacy = self.simulation.privacy()
        for listener in self.listeners:
            listener.evaluation(number, self.scores, privacy)

    def advice(self) -> str:
        """Return how to go on where another process was lost."""
        directory = None if self.disk is None else self.disk.checkpoints.directory
        saved = [] if directory is None else saved_rounds(directory)
        if directory is None or not saved:
            return f"nothing was saved of {self.done} rounds"
        return (
            f"the checkpoint of round {saved[-1]} is kept; continue with --resume --run-dir "
            f"{directory.parent} on the hosts that are left"
        )

    def _diverged(self, number: int, what: str) -> Diverged:
        last = f", the last finite scores are of round {self.scored}" if self.scores else ""
        saved = self.disk.checkpoints.rounds() if self.disk is not None else []
        kept = f"; the checkpoint of round {saved[-1]} is kept" if saved else ""
        return Diverged(
            f"round {number}: {what}{last}{kept}. Lower --client-learning-rate, or take an algorithm that bounds what "
            "clients send, such as --algorithm median"
        )

    def save(self) -> None:
        if self.disk is not None:
            if self.scored != self.simulation.round_number:
                self.evaluate()
            self.disk.checkpoints.save(self.simulation.round_number, self.simulation.state, _score(self.validation()))

    def validation(self) -> dict[str, dict[str, Any]]:
        """Return the scores of validation samples, by which the best checkpoint is chosen: never by the test's."""
        number = self.simulation.round_number
        if self.validated[0] != number:
            self.validated = number, self.simulation.evaluate_validation()
        return self.validated[1]

    def summary(self, facts: dict[str, Any]) -> dict[str, Any]:
        simulation, rows = self.simulation, self.rows
        if not self.scores:  # resumed after the last round, whose scores the metrics have
            self.scores = simulation.evaluate()
        seconds = sorted(row["seconds"] for row in rows)
        sent = [sum(row[key] for row in rows) for key in ("bytes_up", "bytes_down")]
        between = [row["bytes_between_servers"] for row in rows if "bytes_between_servers" in row]  # of a hierarchy
        waited = [row["device_waiting"] for row in rows if "device_waiting" in row]  # where samples are streamed
        took_part = max(1, sum(row["clients"] for row in rows))
        summary = {
            "rounds": simulation.round_number,
            "evaluation": self.scores,
            "validation": self.validation(),
            "best_round": self.disk.checkpoints.best() if self.disk and self.validation() else None,
            "baseline": facts.get("baseline"),
            "communication": {
                "bytes_up_per_client": sent[0] / took_part,
                "bytes_down_per_client": sent[1] / took_part,
                "total_bytes": sum(sent),
                **({"bytes_between_servers": sum(between)} if between else {}),
            },
            "cost": {
                **simulation.cost(),
                "seconds_per_round": seconds[len(seconds) // 2] if seconds else None,
                "padding_waste": sum(row["padding_waste"] for row in rows) / len(rows) if rows else None,
                **({"device_waiting": sum(waited) / len(waited)} if waited else {}),
            },
            "privacy": simulation.privacy(),
            "simulated_seconds": sum(row.get("simulated_seconds", 0.0) for row in rows) or None,
            "skipped_clients": sum(row["skipped_clients"] for row in rows),
            "state_sha256": simulation.digest(),
            "versions": facts.get("versions"),
            "archive": facts.get("archive"),
        }
        accuracy = simulation.evaluate_personal()
        if accuracy is not None:
            summary["personal"] = personal.summarize(accuracy)
            summary["clip"] = build_clip.facts(simulation.study) if simulation.own_model else {}
        if self.disk is not None:
            found = predictions.gather(simulation, accuracy)
            if self.disk.directory is not None:
                predictions.keep(found, self.disk.directory.path)
        if simulation.study.execution.evaluate_clients:
            summary["clients"] = simulation.evaluate_clients()
        return summary


def _score(scores: dict[str, dict[str, Any]]) -> float:
    """Return the score that the best checkpoint has: the task's first, of the modalities together."""
    fused = scores.get(fused_set(scores) or "", {})
    return next((float(fused[key]) for key in ("miou", "accuracy", "map") if is_number(fused.get(key))), 0.0)


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


def load(run_dir: Path, federation: Federation | None = None, *, best: bool = False, training: bool = True) -> Rounds:
    """Return the simulation of a run directory, finished or stopped, with the state of a checkpoint.

    Args:
        run_dir: of the run.
        federation: the run's own, if it was made in Python; None to open what its study names.
        best: take the checkpoint with the best score on validation samples, not the last.
        training: whether it is to go on; if not, one device is enough, and no training images are read onto it.

    Raises:
        UserError: for another federation than the run's, a checkpoint that is missing or damaged, or where the best is
            asked for and there are no validation samples.
    """
    study = read_config(run_dir)
    simulation = Rounds(
        study if training else study.replace(stream_mb=1, devices=1, devices_per_client=1, chunk_size=0), federation
    )
    check_same_federation(run_dir, simulation.federation.describe())
    if best and not len(simulation.federation.validation):
        raise UserError(
            f"--best: {run_dir} has no validation samples to choose a checkpoint by; take the last, or run with "
            "--validation-share 0.1"
        )
    with closing(Checkpoints(run_dir / CHECKPOINTS, simulation.placement, read_only=True)) as checkpoints:
        _restore(simulation, checkpoints, checkpoints.best() if best else None)
    return simulation
