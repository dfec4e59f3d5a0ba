"""The grid of a sweep: which fields take which values, and the studies that this makes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole
from mmfl_jax.lock import LOCK, locked
from mmfl_jax.options import OptionError, nearest, read, shown
from mmfl_jax.options import flag as flag_of
from mmfl_jax.study import OPTIONS, Study

#: Records the grid in the sweep's directory, so that the same command goes on there.
SWEEP = "sweep.json"
_LONGEST_NAME = 120

Values = Mapping[str, Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Hold what a sweep runs: every combination of values, for every seed.

    Attributes:
        base: the study whose fields are varied.
        vary: by field, its values: a row of the comparison for each combination.
        folds: by field, its values: their runs count as one, by their mean.
        seeds: how many, from the base's on.
    """

    base: Study
    vary: Values
    folds: Values
    seeds: int

    def points(self) -> Iterable[dict[str, Any]]:
        """Yield the fields that each run sets: all combinations of one seed, then of the next."""
        fields = [*self.vary, *self.folds]
        for seed in range(self.base.training.seed, self.base.training.seed + self.seeds):
            for values in itertools.product(*self.vary.values(), *self.folds.values()):
                yield {**dict(zip(fields, values)), "seed": seed}


def make_grid(base: Study, vary: Sequence[str], folds: Sequence[str], seeds: int) -> Grid:
    """Return the grid that options such as ``batch_size=16,32`` ask for.

    Raises:
        UserError: for another form, a field that is unknown or given twice, a value of another type.
    """
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}")
    found = {flag: _parse(flag, texts) for flag, texts in (("--vary", vary), ("--folds", folds))}
    if both := [field for field in found["--vary"] if field in found["--folds"]]:
        raise UserError(f"--folds {both[0]}: the field is varied too; give it to --vary or to --folds")
    return Grid(base, found["--vary"], found["--folds"], seeds)


def open_grid(output: Path, grid: Grid) -> list[Study]:
    """Return a grid's studies, named as its directory's record has them, and record what is new.

    Raises:
        UserError: for a directory of something else, or of a sweep that this grid does not contain.
    """
    path = output / SWEEP
    if not path.exists() and output.exists() and (not output.is_dir() or any(p.name != LOCK for p in output.iterdir())):
        raise UserError(f"--run-dir {output} exists and holds no {SWEEP}; name the directory of a sweep, or a new one")
    with locked(output):
        before = _read(path) if path.exists() else {"runs": {}}
        if path.exists():
            _check_contains(output, grid, before)
        names = {_key(values): name for name, values in before["runs"].items()}
        runs: dict[str, dict[str, Any]] = dict(before["runs"])
        studies = []
        for point in grid.points():
            name = names.get(_key(point)) or _free_name(grid, point, runs)
            runs[name] = point
            studies.append(grid.base.replace(**point, name=name))
        record = {"study": grid.base.flat(), "vary": grid.vary, "folds": grid.folds, "seeds": grid.seeds}
        write_whole(path, json.dumps({**record, "runs": runs}, indent=2))
    return studies


def _parse(flag: str, texts: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        field = name.strip().removeprefix("--").replace("-", "_")
        if not equals:
            raise UserError(f"{flag} {text!r} has no values; give {flag} FIELD=VALUE,VALUE")
        if field in found:
            raise UserError(f"{flag} {field} is given twice; give all of its values at once, comma between")
        found[field] = _values(flag, field, values)
        if twice := [value for value in found[field] if found[field].count(value) > 1]:
            raise UserError(f"{flag} {field}: {twice[0]!r} is given twice")
    return found


def _values(flag: str, field: str, texts: str) -> list[Any]:
    """Return the values of a field that texts with a comma between say."""
    if field in ("seed", "name"):
        advice = "--seeds says how many" if field == "seed" else "runs are named by their values"
        raise UserError(f"{flag} {field} cannot be varied; {advice}")
    if field not in OPTIONS:
        raise UserError(f"{flag} {field}: a study has no such field; did you mean {nearest(field, OPTIONS)}?")
    values = [read(OPTIONS[field].kind, text.strip()) for text in texts.split(",")]
    for value in values:
        try:
            Study.of(**{field: value})
        except OptionError as error:
            raise UserError(f"{flag} {field}={shown(value)}{error.fault}") from None
    return values


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_bytes())
        if all(isinstance(record[key], dict) for key in ("study", "vary", "folds", "runs")) and record["seeds"] > 0:
            return record
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    raise UserError(f"{path} is not the record of a sweep; sweep in a new directory")


def _check_contains(output: Path, grid: Grid, before: dict[str, Any]) -> None:
    """Raise UserError where the grid lacks something of the one before it."""
    where = f"the sweep in {output}"
    advice = "give what it had and what you add, or another --run-dir"
    for flag, now, then in (("--vary", grid.vary, before["vary"]), ("--folds", grid.folds, before["folds"])):
        for field in [*then, *now]:
            if field not in now or field not in then:
                had = "has" if field in then else "does not have"
                raise UserError(f"{flag} {field}: {where} {had} this field; {advice}")
            if lacking := [value for value in then[field] if value not in now[field]]:
                raise UserError(f"{flag} {field} lacks {lacking[0]!r}, which {where} has; {advice}")
    if grid.seeds < before["seeds"]:
        raise UserError(f"--seeds {grid.seeds}: {where} has {before['seeds']}; {advice}")
    for field, value in grid.base.flat().items():
        # What is varied is set by each run. A field that a record of another version lacks has its default.
        if field == "name" or field in grid.vary or field in grid.folds or field not in before["study"]:
            continue
        if before["study"][field] != value:
            raise UserError(
                f"{flag_of(field)} {value!r}: {where} was started with {before['study'][field]!r}; give the same, "
                "or another --run-dir"
            )


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True)


def _free_name(grid: Grid, point: Mapping[str, Any], taken: Iterable[str]) -> str:
    """Return a run's name: its values as a folder may be called, its seed and folds."""
    words = "-".join(_word(field, point[field]) for field in grid.vary) or _safe(grid.base.name)
    folds = "".join(f"-fold{list(values).index(point[field])}" for field, values in grid.folds.items())
    ending = f"-seed{point['seed']}{folds}"
    name = words + ending
    # Some file systems do not tell cases apart.
    if len(name) > _LONGEST_NAME or name.casefold() in {other.casefold() for other in taken}:
        digest = hashlib.sha256(_key(point).encode()).hexdigest()[:8]
        name = f"{words[: _LONGEST_NAME - len(ending) - 9]}-{digest}{ending}"
    return name


def _word(field: str, value: Any) -> str:
    """Write a value: a word stands for itself, a number needs its field."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    alone = isinstance(value, str) and text[:1].isalpha()
    return _safe(text if alone else f"{field}={text}")


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+=._-]+", "_", text).lstrip(".-") or "_"
