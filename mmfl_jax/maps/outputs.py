"""What is written of a scene, and what may be replaced by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmfl_jax.errors import UserError
from mmfl_jax.files import writing
from mmfl_jax.maps.options import MapOptions

_MARK = b"mmfl_jax"
_SEARCHED, _SIDE = 2**20, ".aux.xml"


@dataclass(frozen=True)
class Outputs:
    """Name the files of a scene; those that are not asked for are None."""

    map: Path
    names: Path
    probabilities: Path | None
    picture: Path | None
    item: Path | None

    @classmethod
    def of(cls, output: Path, name: str, options: MapOptions) -> Outputs:
        """Name the files of the scene ``name``."""
        return cls(
            output / f"{name}.tif",
            output / f"{name}.tif{_SIDE}",
            output / f"{name}.probabilities.tif" if options.probabilities else None,
            output / f"{name}.png" if options.quicklook else None,
            output / f"{name}.json" if options.stac else None,
        )

    @property
    def files(self) -> list[Path]:
        """Return all of them."""
        named = (self.map, self.names, self.probabilities, self.picture, self.item)
        return [path for path in named if path is not None]


def prepare(outputs: Sequence[Outputs], overwrite: bool) -> None:
    """Make the folder of the maps once nothing there is in the way.

    Raises:
        UserError: two scenes with one output, a file that is there already, a folder that cannot be made.
    """
    files = [path for scene in outputs for path in scene.files]
    if twice := next((path for path in files if files.count(path) > 1), None):
        raise UserError(f"{twice}: two scenes would be written there; rename one of them")
    for path in filter(Path.exists, files):
        if not _ours(path):
            raise UserError(f"{path}: is there already and no map of this command; choose another --output")
        if not overwrite:
            raise UserError(f"{path}: is there already; --overwrite replaces it")
    folder = outputs[0].map.parent
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _ours(path: Path) -> bool:
    """Return whether a file carries the mark of what this command writes, near its beginning."""
    if path.name.endswith(_SIDE) and _ours(path.with_name(path.name.removesuffix(_SIDE))):
        return True  # others add to it
    try:
        with path.open("rb") as file:
            return _MARK in file.read(_SEARCHED)
    except OSError:
        return False
