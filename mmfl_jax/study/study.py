"""A study: every option of one experiment, in groups that check themselves."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmfl_jax.errors import UserError
from mmfl_jax.options import FileName, OptionError, UnknownOption, options, parts, shown
from mmfl_jax.study.groups import (
    AlgorithmOptions,
    DataOptions,
    ExecutionOptions,
    FederationOptions,
    MethodOptions,
    TrainingOptions,
)


@options
class Study:
    """Say what to run.

    Options are given by name, whatever their group: ``Study.of(rounds=5, batch_size=16)``. A study of ``experiments/``
    is a Python file that assigns one of these to ``study``.
    """

    name: FileName = "study"
    """Name of the study; runs/NAME is the default run directory."""
    data: DataOptions = dataclasses.field(default_factory=DataOptions)
    federation: FederationOptions = dataclasses.field(default_factory=FederationOptions)
    method: MethodOptions = dataclasses.field(default_factory=MethodOptions)
    algorithm: AlgorithmOptions = dataclasses.field(default_factory=AlgorithmOptions)
    training: TrainingOptions = dataclasses.field(default_factory=TrainingOptions)
    execution: ExecutionOptions = dataclasses.field(default_factory=ExecutionOptions)

    @classmethod
    def of(cls, **values: Any) -> Study:
        """Return the study with these options, and the defaults of all others.

        Raises:
          UserError: for an option that there is not, or a value that it cannot have.
        """
        return cls().replace(**values)

    def replace(self, **values: Any) -> Study:
        """Return the study with other values for some options.

        Raises:
          UserError: see :meth:`of`.
        """
        for name in values:
            if name not in OPTIONS:
                raise UnknownOption(name, OPTIONS)
        return _replaced(self, values)

    @property
    def data_seed(self) -> int:
        """Return the seed of what owners have: ``--data-seed``, or ``--seed`` where there is none."""
        return self.training.seed if self.data.data_seed < 0 else self.data.data_seed

    def flat(self) -> dict[str, Any]:
        """Return the values of all options by name."""
        return flattened(dataclasses.asdict(self))

    def to_json(self) -> str:
        """Return the study as JSON, in groups."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def from_json(cls, path: Path) -> Study:
        """Return the study that :meth:`to_json` wrote to ``path``; one of before, without groups, too.

        Raises:
          UserError: for a file that is missing, damaged, or of another version.
        """
        try:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict):
                raise ValueError(f"expected an object, found {type(found).__name__}")
            return cls.of(**flattened(found))
        except FileNotFoundError:
            raise UserError(f"{path} does not exist; is {path.parent} a run directory?") from None
        except OptionError as error:
            raise UserError(f"{path}: {error.name} {shown(error.value)}{error.fault}") from None
        except (OSError, ValueError, RecursionError, UserError) as error:
            raise UserError(f"{path} is not a study's configuration: {error}") from None


class Option(NamedTuple):
    """Say what an option is.

    Attributes:
      group: names of the groups that it stands in, outermost first.
      kind: type of its values.
      default: what it is when nobody says otherwise.
    """

    group: tuple[str, ...]
    kind: Any
    default: Any


def flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a ``config.json`` by name, whether it has groups or not."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flattened(value) if isinstance(value, dict) else {name: value}
    return found


def _replaced(group: Any, values: Mapping[str, Any]) -> Any:
    changed = {}
    for field in dataclasses.fields(group):
        old = getattr(group, field.name)
        if dataclasses.is_dataclass(old):
            if (new := _replaced(old, values)) is not old:
                changed[field.name] = new
        elif field.name in values:
            changed[field.name] = values[field.name]
    return dataclasses.replace(group, **changed) if changed else group


def _options_of(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Option]]:
    kinds = typing.get_type_hints(type(group), include_extras=True)
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _options_of(value, (*path, field.name))
        else:
            yield field.name, Option(path, parts(kinds[field.name])[0], value)


#: Every option by its name, which no two groups share.
OPTIONS: dict[str, Option] = {}
for _name, _option in _options_of(Study()):
    assert _name not in OPTIONS, f"{_name} is an option of two groups"
    OPTIONS[_name] = _option
