"""Read what a run wrote into its directory, finished or still going."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.runs.schema import (
    CONFIG,
    FEDERATION,
    METRICS,
    SUMMARY,
    read_config,
    read_federation,
    read_metrics,
    read_summary,
)
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
        return len(self.rounds)

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
        return sum(line[key] for line in self.rounds for key in ("bytes_up", "bytes_down")) or None

    @property
    def skipped_clients(self) -> int:
        """The updates of clients that were left out so far, for they were not finite."""
        return sum(line["skipped_clients"] for line in self.rounds)

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
    if missing := [name for name in (CONFIG, FEDERATION, METRICS) if not (run_dir / name).is_file()]:
        raise UserError(f"{run_dir}: not a run directory, it has no {' and no '.join(missing)}")
    config, lines, summary = read_config(run_dir).flat(), read_metrics(run_dir), read_summary(run_dir)
    if summary and summary["rounds"] < config["rounds"]:  # of before, when the run was to end earlier
        summary = {}
    record = RunRecord(
        path=run_dir,
        config=config,
        federation=read_federation(run_dir),
        rounds=[line for line in lines if line["kind"] == "round"],
        evaluations={line["round"]: line["evaluation"] for line in lines if line["kind"] == "evaluation"},
        summary=summary,
    )
    if summary and summary["rounds"] > len(record.rounds):
        raise UserError(
            f"{run_dir / METRICS}: ends with round {len(record.rounds)}, but {SUMMARY} is of round {summary['rounds']}"
        )
    return record
