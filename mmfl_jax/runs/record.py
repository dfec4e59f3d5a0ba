"""Read what a run wrote into its directory, finished or still going."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import statistics
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.runs.directory import CONFIG, FEDERATION, METRICS, SUMMARY
from mmfl_jax.runs.values import as_float, is_number, ordered_sets


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Hold the contents of a run directory.

    Attributes:
      path: the directory.
      config: the study's fields.
      federation: class names, task and clients.
      rounds: what was measured in each round, by ascending round.
      evaluations: scores by round and modality set, by ascending round.
      summary: the final results, empty while the run is going.
    """

    path: Path
    config: dict[str, Any]
    federation: dict[str, Any]
    rounds: list[dict[str, Any]]
    evaluations: dict[int, dict[str, dict[str, Any]]]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        """The study's name, or the directory's where it has none."""
        return str(self.config.get("name") or self.path.resolve().name)

    @property
    def finished(self) -> bool:
        """Whether the run wrote its summary."""
        return bool(self.summary)

    @property
    def last_round(self) -> int:
        """The last round that has ended."""
        ended = [line["round"] for line in self.rounds] + list(self.evaluations)
        return max([*ended, self.summary.get("rounds") or 0])

    @property
    def evaluation(self) -> dict[str, dict[str, Any]]:
        """The final scores by modality set; while the run is going, the latest ones."""
        latest = self.evaluations[max(self.evaluations)] if self.evaluations else {}
        return self.summary.get("evaluation") or latest

    @property
    def baseline(self) -> dict[str, Any]:
        """The scores of the prediction that looks at no image, empty where they are not known."""
        return self.summary.get("baseline") or {}

    @property
    def total_bytes(self) -> float | None:
        """The bytes that all clients have sent and received so far."""
        total = (self.summary.get("communication") or {}).get("total_bytes")
        if is_number(total):
            return total
        known = [line.get(key) or 0 for line in self.rounds for key in ("bytes_up", "bytes_down")]
        return sum(value for value in known if is_number(value)) or None

    @property
    def total_flops(self) -> float | None:
        """The floating-point operations of all rounds, known once the run has finished."""
        flops: Any = (self.summary.get("cost") or {}).get("flops_per_round")
        return float(flops) * self.last_round if is_number(flops) else None

    @property
    def simulated_seconds(self) -> float | None:
        """The simulated time that all rounds took; ``None`` for a run that simulates no clock."""
        totals = self.totals("simulated_seconds")
        return totals[max(totals)] if totals else None

    @property
    def epsilon(self) -> float | None:
        """The epsilon of the run's differential privacy, where it has one."""
        epsilon = (self.summary.get("privacy") or {}).get("epsilon")
        return epsilon if is_number(epsilon) else None

    def totals(self, *fields: str) -> dict[int, float]:
        """Return running totals of fields of the rounds' lines by round, from 0; empty where a line lacks one."""
        values = [[as_float(line.get(field)) for field in fields] for line in self.rounds]
        ends = list(itertools.accumulate((sum(line) for line in values), initial=0.0))
        if not values or math.isnan(ends[-1]):
            return {}
        return dict(zip([0, *(line["round"] for line in self.rounds)], ends))

    @property
    def seconds_per_round(self) -> float | None:
        """The seconds of a round, while the run is going the median of the rounds so far."""
        seconds = (self.summary.get("cost") or {}).get("seconds_per_round")
        known = [line["seconds"] for line in self.rounds if is_number(line.get("seconds"))]
        return seconds if is_number(seconds) else statistics.median(known) if known else None

    @property
    def modalities(self) -> list[str]:
        """The study's modalities."""
        value = self.config.get("modalities") or []
        return value.split(",") if isinstance(value, str) else [str(name) for name in value]

    @functools.cached_property
    def evaluated_sets(self) -> list[str]:
        """The modality sets that were evaluated, each alone first."""
        names = {name for scores in self.evaluations.values() for name in scores}
        return ordered_sets(names | set(self.evaluation), self.modalities)

    @functools.cached_property
    def sets(self) -> list[str]:
        """The modality sets that were evaluated or that a client holds, each alone first."""
        held = {self.held_set(client) for client in self.federation["clients"]}
        return ordered_sets(held | set(self.evaluated_sets), self.modalities)

    def held_set(self, client: dict[str, Any]) -> str:
        """Return the modality set that a client holds."""
        return "+".join(ordered_sets(client["modalities"], self.modalities))

    def curve(self, modality_set: str, metric: str) -> tuple[list[int], list[float]]:
        """Return the rounds at which a score was taken, and the score."""
        scores = {r: as_float(e.get(modality_set, {}).get(metric)) for r, e in self.evaluations.items()}
        known = {r: value for r, value in scores.items() if is_number(value)}
        return list(known), list(known.values())


def read_run(run_dir: Path) -> RunRecord:
    """Read a run directory.

    Args:
      run_dir: the directory; ``summary.json`` may be missing, the run is still going then.

    Raises:
      UserError: if it is not a run directory, or a file in it is damaged.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: no such run directory")
    missing = [name for name in (CONFIG, FEDERATION, METRICS) if not (run_dir / name).is_file()]
    if missing:
        raise UserError(f"{run_dir}: not a run directory, it has no {' and no '.join(missing)}")
    rounds, evaluations = _read_metrics(run_dir / METRICS)
    summary = run_dir / SUMMARY
    return RunRecord(
        path=run_dir,
        config=_read_object(run_dir / CONFIG),
        federation=_read_federation(run_dir / FEDERATION),
        rounds=rounds,
        evaluations=evaluations,
        summary=_read_summary(summary) if summary.is_file() else {},
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _read_federation(path: Path) -> dict[str, Any]:
    federation = _read_object(path)
    names, clients = federation.get("class_names"), federation.get("clients")
    if not isinstance(names, list) or not isinstance(clients, list):
        raise UserError(f"{path}: class_names and clients must both be lists")
    for position, client in enumerate(clients):
        if not _is_client(client, len(names)):
            raise UserError(
                f"{path}: client {position} must have name, modalities, samples and labels (a count for each of "
                f"the {len(names)} classes), found {json.dumps(client)[:80]}"
            )
    return {**federation, "class_names": [str(name) for name in names]}


def _is_client(client: Any, classes: int) -> bool:
    return (
        isinstance(client, dict)
        and isinstance(client.get("modalities"), list)
        and all(isinstance(name, str) for name in client["modalities"])
        and is_number(client.get("samples"))
        and "name" in client
        and isinstance(client.get("labels"), list)
        and len(client["labels"]) == classes
        and all(is_number(count) for count in client["labels"])
    )


def _read_summary(path: Path) -> dict[str, Any]:
    summary = _read_object(path)
    for field in ("evaluation", "baseline", "communication", "cost", "privacy", "bounds", "versions", "archive"):
        if not isinstance(summary.get(field) or {}, dict):
            raise UserError(f"{path}: {field} must be an object, found {type(summary[field]).__name__}")
    for name, scores in (summary.get("bounds") or {}).items():
        if not _is_evaluation(scores):
            raise UserError(f"{path}: bounds: {name} must hold an object of scores for each modality set")
    if not _is_evaluation(summary.get("evaluation") or {}):
        raise UserError(f"{path}: evaluation must hold an object of scores for each modality set")
    return summary


def _is_evaluation(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(scores, dict) for scores in value.values())


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], dict[int, dict[str, dict[str, Any]]]]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    rounds: dict[int, dict[str, Any]] = {}
    evaluations: dict[int, dict[str, dict[str, Any]]] = {}
    for number, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError as error:
            # Only the last line has no line break after it: a run that was killed leaves it cut off.
            if number == len(lines):
                break
            raise UserError(f"{path}: line {number} is not valid JSON ({error})") from error
        if not isinstance(line, dict) or not isinstance(line.get("round"), int):
            raise UserError(f"{path}: line {number} must be an object with kind and round, found {text[:60]!r}")
        # A resumed run writes some rounds again: the later line counts.
        if line.get("kind") == "round":
            rounds[line["round"]] = line
        elif line.get("kind") == "evaluation":
            if not _is_evaluation(line.get("evaluation")):
                raise UserError(f"{path}: line {number} has no scores by modality set under evaluation")
            evaluations[line["round"]] = line["evaluation"]
    return [rounds[r] for r in sorted(rounds)], {r: evaluations[r] for r in sorted(evaluations)}
