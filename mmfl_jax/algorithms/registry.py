"""Algorithms by reference: ``name[:VALUE|KEY=VALUE...]``, and modifiers by ``+`` (``scaffold+top_k:0.01``).

An algorithm is a function of its options that returns an :class:`Algorithm`; a modifier takes the algorithm it modifies
first. Options, their defaults and their types are those of the function's signature.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from mmfl_jax.algorithms.algorithm import Algorithm
from mmfl_jax.errors import UserError

# Each lives in the file of its name.
_ALGORITHMS = (
    *("fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedexp", "fedprox", "scaffold", "fednova", "feddyn"),
    *("feddc", "mimelite", "moon", "ditto", "ifca", "fedbn", "fedper", "fedrep", "fedbuff", "centralized", "local"),
)
_MODIFIERS = (
    *("median", "trimmed_mean", "krum", "multi_krum", "norm_clip", "dp_fedavg"),
    *("int8", "top_k", "sign", "secure_sum", "hierarchical"),
)


class Entry(NamedTuple):
    """Hold an algorithm or a modifier of one.

    Attributes:
      make: ``(**options) -> Algorithm``; of a modifier ``(algorithm, **options) -> Algorithm``.
      modifies: whether it is a modifier.
    """

    make: Callable[..., Algorithm]
    modifies: bool = False

    @property
    def summary(self) -> str:
        """Return the first line of the function's docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]

    @property
    def line(self) -> str:
        """Return the summary, the options with their defaults, and the first reference, on one line."""
        text = inspect.getdoc(self.make) or ""
        reference = text.partition("References:")[2].strip().partition("\n")[0].strip()
        options = ":".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.summary}{f' [{options}]' if options else ''} ({reference.rstrip('.') or 'no reference given'})"

    @property
    def options(self) -> dict[str, Any]:
        """Return the options that a reference can give, with their defaults."""
        parameters = list(inspect.signature(self.make).parameters.values())[1 if self.modifies else 0 :]
        return {p.name: p.default for p in parameters if isinstance(p.default, int | float | str)}


_REGISTERED: dict[str, Entry] = {}


def _built_in(name: str) -> Callable[..., Algorithm]:
    return getattr(importlib.import_module(f"mmfl_jax.algorithms.{name}"), name)


def algorithms() -> dict[str, Entry]:
    """Return every algorithm and modifier by name."""
    own = {name: Entry(_built_in(name)) for name in _ALGORITHMS}
    modifiers = {name: Entry(_built_in(name), modifies=True) for name in _MODIFIERS}
    return {**own, **modifiers, **_REGISTERED}


def register(name: str, make: Callable[..., Algorithm], *, modifies: bool = False, replace: bool = False) -> None:
    """Add an algorithm under ``name``, for studies and the command line.

    Args:
      name: without ``+`` and ``:``.
      make: see :class:`Entry`.
      modifies: whether it is a modifier.
      replace: take the place of the one that has the name.

    Raises:
      UserError: for a name that cannot be written in a reference, or that is taken.
    """
    if not name or set(name) & set("+:=, "):
        raise UserError(f"algorithm {name!r}: a name must not be empty nor have any of + : = , or a space")
    if name in algorithms() and not replace:
        raise UserError(f"algorithm {name!r} is there already; choose another name, or say replace=True")
    _REGISTERED[name] = Entry(make, modifies)


def find(reference: str, **context: Any) -> Algorithm:
    """Return the algorithm of a reference.

    Args:
      reference: such as ``fedprox:0.01``, ``moon:mu=1:temperature=0.5`` or ``scaffold+int8``; modifiers alone modify
        FedAvg.
      context: values for parameters that a reference cannot give, such as ``optimizer``.

    Raises:
      UserError: for an unknown name or option, or a value that does not fit.
    """
    known = algorithms()
    parts = [_parse(part, known, reference) for part in reference.split("+")]
    bases = [name for name, _ in parts if not known[name].modifies]
    if len(bases) > 1:
        raise UserError(
            f"--algorithm {reference!r} joins {' and '.join(bases)}; one algorithm, and any of {_listed(known)}"
        )
    algorithm = _made(known[bases[0]], dict(parts)[bases[0]], context) if bases else _made(known["fedavg"], {}, context)
    for name, options in parts:
        if known[name].modifies:
            if algorithm.servers:
                raise UserError(f"--algorithm {reference!r}: hierarchical comes last, and goes with no other modifier")
            modified = _made(known[name], options, context, algorithm)
            _check_modified(reference, name, algorithm, modified)
            algorithm = modified
    return algorithm


def _check_modified(reference: str, name: str, before: Algorithm, after: Algorithm) -> None:
    """Raise UserError for a modifier that undoes what the algorithm before it promises, or cannot read its message."""
    if before.privacy and name not in ("norm_clip", "secure_sum"):  # which enlarge no message
        raise UserError(
            f"--algorithm {reference!r}: {name} would undo what dp_fedavg bounds; compression goes before it, as in "
            "int8+dp_fedavg"
        )
    changes = after.transform != before.transform or after.reduce.combine != before.reduce.combine
    if before.indivisible and changes:
        raise UserError(f"--algorithm {reference!r}: {name} does not fit, for {before.indivisible}")


def _listed(known: dict[str, Entry]) -> str:
    return ", ".join(name for name, entry in known.items() if entry.modifies)


def _made(entry: Entry, options: dict[str, Any], context: dict[str, Any], *modified: Algorithm) -> Algorithm:
    wanted = inspect.signature(entry.make).parameters
    return entry.make(*modified, **{n: v for n, v in context.items() if n in wanted}, **options)


def _parse(part: str, known: dict[str, Entry], reference: str) -> tuple[str, dict[str, Any]]:
    name, *texts = part.strip().split(":")
    name = name.lower().replace("-", "_")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise UserError(f"--algorithm {reference!r}: {name!r} is unknown{meant}; one of {', '.join(known)}")
    options = known[name].options
    given: dict[str, Any] = {}
    for position, text in enumerate(texts):
        key, equals, value = text.partition("=")
        if not equals:
            key, value = (list(options)[position] if position < len(options) else ""), text
        if key not in options:
            allowed = ", ".join(f"{n}={v}" for n, v in options.items()) or "none"
            raise UserError(f"--algorithm {reference!r}: {name} has no option for {text!r}; it has {allowed}")
        given[key] = _value(value, options[key], f"--algorithm {reference!r}: {name}'s {key}")
    return name, given


def _value(text: str, default: Any, what: str) -> Any:
    kind = type(default)
    try:
        value = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UserError(f"{what} must be {wanted} such as {default}, not {text!r}") from None
    if kind is float and not abs(value) < float("inf"):
        raise UserError(f"{what} must be finite, not {text!r}")
    return value
