"""Choose the bands of a file that a run has learned from: by their names, or by their places where there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmfl_jax.archives.pictures import plain
from mmfl_jax.errors import UserError


def choose_bands(path: Path, found: Sequence[str | None], wanted: Sequence[str]) -> list[int]:
    """Return the numbers, from one on, of the wanted bands.

    Args:
        path: of the file, for errors.
        found: names of the file's bands, None for one without.
        wanted: names of the run's channels.

    Raises:
        UserError: bands that are not there, or that are there twice; without names another number of bands.
    """
    names, sought = [plain(name) for name in found], [plain(name) for name in wanted]
    if not any(names) or not all(sought):
        if len(names) == len(sought):
            return list(range(1, len(names) + 1))
        raise UserError(
            f"{path}: {len(names)} bands without names, the run has {_listed(wanted)}; "
            "name the bands (their descriptions), or leave the others out"
        )
    if missing := [name for name, key in zip(wanted, sought) if key not in names]:
        raise UserError(f"{path}: no band {', '.join(missing)}; it has {_listed(found)}, the run {_listed(wanted)}")
    if twice := next((name for name, key in zip(wanted, sought) if names.count(key) > 1), None):
        raise UserError(f"{path}: {names.count(plain(twice))} bands are called {twice}; names must differ")
    return [names.index(key) + 1 for key in sought]


def _listed(names: Sequence[str | None]) -> str:
    shown = ", ".join(name or "(no name)" for name in names[:20])
    return f"{shown}{', ...' if len(names) > 20 else ''} ({len(names)})"
