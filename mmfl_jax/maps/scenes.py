"""Find the scenes of a folder: a file for each modality that is there."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mmfl_jax.errors import UserError

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")


@dataclass(frozen=True)
class Scene:
    """Name a scene and the file of each of its modalities."""

    name: str
    files: dict[str, Path]


def check_folders(source: Path, output: Path) -> None:
    """Refuse a folder of scenes that is none, and an output that would be taken for scenes.

    Raises:
        UserError: no folder to read, an output that is a file or lies in that folder.
    """
    if not source.is_dir():
        what = "is a file" if source.exists() else "no such folder"
        raise UserError(f"{source}: {what}; --input needs the folder with the scenes")
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; --output needs a folder for the maps")
    if (place := output.resolve()) == (inside := source.resolve()) or inside in place.parents:
        raise UserError(f"{output}: lies in the input {source}, where maps would be taken for scenes; name another one")


def find_scenes(source: Path, modalities: Iterable[str]) -> list[Scene]:
    """Return the scenes of a folder, in the order of their names.

    Args:
        source: holds a folder for each modality (``s1``, ``S2``, ...) with one file name for a scene in all of them,
            or, of a run with one modality, the files themselves.
        modalities: of the run.

    Raises:
        UserError: no scene; scenes without a folder that says their modality.
    """
    wanted = list(modalities)
    folders, files = _listed(source)
    by_modality: dict[str, list[Path]] = {}
    for modality in wanted:
        named = [path for path in folders if path.name.casefold() == modality.casefold()]
        if len(named) > 1:
            raise UserError(f"{named[1]}: {named[0].name} is there as well; a modality has one folder")
        if named:
            by_modality[modality] = _listed(named[0])[1]
    if not by_modality and files and len(wanted) == 1:
        by_modality = {wanted[0]: files}
    there = ", ".join(str(source / modality) for modality in wanted)
    if not by_modality and files:
        raise UserError(
            f"{files[0]}: no folder says which modality this is; the run has {len(wanted)}, put the scenes into {there}"
        )
    scenes: dict[str, dict[str, Path]] = {}
    for modality, paths in by_modality.items():
        for path in paths:
            held = scenes.setdefault(path.stem, {})
            if modality in held:
                raise UserError(f"{path}: {held[modality].name} is of the same name; a modality has one file a scene")
            held[modality] = path
    if not scenes:
        raise UserError(f"{source}: no scene ({', '.join(SUFFIXES)}) found; they belong into {there}")
    return [Scene(name, scenes[name]) for name in sorted(scenes)]


def _listed(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the rasters of a folder, in the order of their names."""
    try:
        # Hidden names are what archivers and systems leave behind.
        found = sorted(Path(entry) for entry in os.scandir(folder) if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
    rasters = [path for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]
    if odd := next((path for path in rasters if not path.name.isprintable()), None):
        raise UserError(f"{str(odd)!r}: a file name that cannot be printed; rename it")
    return [path for path in found if path.is_dir()], rasters
