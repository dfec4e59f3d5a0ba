"""Runs of one configuration together: what a comparison has a row for."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.report.comparison.intervals import mean
from mmfl_jax.runs.record import RunRecord, read_run
from mmfl_jax.runs.schema import BOUNDS, BOUNDS_FOLDER, SUMMARY
from mmfl_jax.runs.values import fused_set

#: Fields that say where and under which name a run was made, not what was run.
INCIDENTAL = frozenset({"name", "run_dir", "resume", "quiet", "tensorboard"})


@dataclasses.dataclass(frozen=True)
class Unit:
    """Hold the runs that count as one, by their mean: one run, or the folds of a seed.

    Attributes:
      key: values of the fields that are averaged over, such as the seed.
      folds: values of the fields that were averaged over first, of each run.
      runs: the runs.
    """

    key: str
    folds: list[str]
    runs: list[RunRecord]

    def curve(self, modality_set: str, metric: str) -> dict[int, float]:
        """Return the mean score by round, of the rounds after which every run was evaluated."""
        return _mean_by_round([dict(zip(*run.curve(modality_set, metric))) for run in self.runs])

    def totals(self, *fields: str) -> dict[int, float]:
        """Return the mean of the runs' running totals by round."""
        return _mean_by_round([run.totals(*fields) for run in self.runs])


@dataclasses.dataclass(frozen=True)
class Group:
    """Hold the runs of one configuration, and what tells it from the others.

    Attributes:
      units: the runs; those of one unit count as one.
      differences: the fields that tell this configuration from the others.
    """

    units: list[Unit]
    differences: dict[str, Any]

    @property
    def runs(self) -> list[RunRecord]:
        """All runs, unit after unit."""
        return [run for unit in self.units for run in unit.runs]

    @property
    def name(self) -> str:
        """What the runs' names begin with: "mf-seed0-fold0" and "mf-seed1-fold0" together are "mf"."""
        names = [run.name for run in self.runs]
        alike = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
        common = "".join(letters[0] for letters in alike)
        if len(names) > 1:
            if any(name[len(common) :][:1].isdigit() for name in names):
                common = re.sub(r"\d+$", "", common)  # of 10 and 11 the 1 tells nothing
            # The 8 of "resnet8-seed0" stays, and the .001 of "rate=0.001-seed0".
            common = re.sub(r"([-_. ]+(seed|fold)\d*)*[-_. ]*$", "", common)
        return common or names[0]

    @property
    def fused(self) -> str | None:
        """The modality set with the most modalities."""
        return fused_set({name for run in self.runs for name in run.evaluated_sets})

    def final(self, modality_set: str, metric: str) -> list[float | None]:
        """Return the final score of each unit, the mean of its runs'."""
        return [mean([run.evaluation.get(modality_set, {}).get(metric) for run in unit.runs]) for unit in self.units]

    def by_run(self, modality_set: str, metric: str) -> dict[tuple[Hashable, Hashable], float]:
        """Return the final score by unit and fold."""
        found: dict[tuple[Hashable, Hashable], list[Any]] = {}
        for unit in self.units:
            for fold, run in zip(unit.folds, unit.runs):
                score = run.evaluation.get(modality_set, {}).get(metric)
                found.setdefault((unit.key, fold), []).append(score)
        means = {key: mean(scores) for key, scores in found.items()}
        return {key: value for key, value in means.items() if value is not None}


def group_runs(
    run_dirs: Sequence[Path], over: Sequence[str], folds: Sequence[str], validation: bool = False
) -> list[Group]:
    """Read runs, and put those together that differ in ``over`` and ``folds`` only.

    Args:
      run_dirs: of the runs.
      over, folds: fields.
      validation: take the scores on validation samples for those of the test.

    Raises:
      UserError: if there is no run, a directory is given twice, or one is not a run directory; for a run without the
        scores that are asked for.
    """
    paths = [Path(path).resolve() for path in run_dirs]
    if not paths:
        raise UserError("compare: no run directory was given")
    if twice := [str(given) for given, path in zip(run_dirs, paths) if paths.count(path) > 1]:
        raise UserError(f"compare: {twice[0]} was given twice")
    left_out = INCIDENTAL | set(over) | set(folds)
    grouped: dict[str, dict[str, Unit]] = {}
    configs: dict[str, dict[str, Any]] = {}
    for path in (*run_dirs, *_bounds_of(paths)):
        run = _on_validation(read_run(Path(path))) if validation else read_run(Path(path))
        config = {key: value for key, value in run.config.items() if key not in left_out}
        identity = json.dumps(config, sort_keys=True)
        key, fold = (json.dumps([run.config.get(field) for field in fields]) for fields in (over, folds))
        # Without folds each run is a unit, also two of one seed.
        units = grouped.setdefault(identity, {})
        if path not in run_dirs and any(unit.key == key and fold in unit.folds for unit in units.values()):
            continue  # runs of several algorithms have one bound
        unit = units.setdefault(key if folds else str(path), Unit(key, [], []))
        unit.folds.append(fold)
        unit.runs.append(run)
        configs[identity] = config
    fields = list(dict.fromkeys(key for config in configs.values() for key in config))
    varying = [key for key in fields if len({json.dumps(config.get(key)) for config in configs.values()}) > 1]
    return [Group(list(units.values()), {key: configs[i].get(key) for key in varying}) for i, units in grouped.items()]


def _on_validation(run: RunRecord) -> RunRecord:
    """Return a run whose final scores are those on validation samples, and that was not evaluated before."""
    if not run.summary.get("validation"):
        raise UserError(f"{run.path}: has no scores on validation samples; run it to its end with --validation-share")
    return dataclasses.replace(run, evaluations={}, summary=run.summary | {"evaluation": run.summary["validation"]})


def _bounds_of(paths: Sequence[Path]) -> list[Path]:
    """Return the runs of the bounds that stand beside runs (``mmfl-jax run --bounds``), one bound after the other."""
    found = [path / BOUNDS_FOLDER / name for name in BOUNDS for path in paths]
    return [bound for bound in found if bound not in paths and (bound / SUMMARY).is_file()]


def told(differences: dict[str, Any], most: int = 4) -> str:
    """Write the fields that tell a configuration from the others, ``most`` of them."""
    fields = [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in differences.items()]
    return ", ".join(fields[:most]) + (f" and {len(fields) - most} more" if len(fields) > most else "")


def labels(groups: Sequence[Group]) -> list[str]:
    """Name the groups, with their differences where names alone do not tell them apart."""
    names = [group.name for group in groups]
    same = len(set(names)) < len(names)
    found = [f"{group.name} ({told(group.differences)})" if same else group.name for group in groups]
    return [f"{x}, mean of {len(g.units)}" if len(g.units) > 1 else x for x, g in zip(found, groups)]


def _mean_by_round(series: Sequence[dict[int, float]]) -> dict[int, float]:
    series = [values for values in series if values]
    common = set(series[0]).intersection(*series[1:]) if series else set()
    return {r: sum(values[r] for values in series) / len(series) for r in sorted(common)}
