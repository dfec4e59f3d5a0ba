"""Map every scene of a folder."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from mmfl_jax.errors import UserError
from mmfl_jax.files import write_whole
from mmfl_jax.maps.composites import Thumbnail, choose_view
from mmfl_jax.maps.geotiff import CloudGeoTiff, check_space, side_file
from mmfl_jax.maps.legend import NODATA, Legend
from mmfl_jax.maps.options import MapOptions
from mmfl_jax.maps.outputs import Outputs, prepare
from mmfl_jax.maps.predictor import Predictor
from mmfl_jax.maps.rasters import OpenScene, open_scene
from mmfl_jax.maps.scenes import check_folders, find_scenes
from mmfl_jax.maps.windows import Images, Windows
from mmfl_jax.report.counting import Counting
from mmfl_jax.runs.signals import Stopped, graceful

_BATCH_PIXELS = 2**19
# Of the longer side of the picture.
_PICTURE = 1000
# Probabilities are written as bytes: 250 is certain, 255 no data.
CERTAIN = 250


def predict_maps(
    predictor: Predictor, source: Path, output: Path, options: MapOptions | None = None, *, quiet: bool = True
) -> list[Path]:
    """Map the scenes of a folder, and return the maps.

    A map stands under its name once it is complete. A first signal ends the scene's strip and leaves nothing of that
    scene; maps of other scenes stay.

    Args:
        predictor: gives the probabilities.
        source: see :func:`mmfl_jax.maps.scenes.find_scenes`.
        output: where maps go, ``SCENE.tif`` and what the options ask for beside it.
        options: see :class:`MapOptions`.
        quiet: show no progress.

    Raises:
        UserError: no scene, a scene that cannot be read or lacks the run's bands (before anything is predicted, where
            its header says so), an output that is there already, a full disk.
        Stopped: by a signal.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # such a scene gives such a map
        return _predict_maps(predictor, source, output, options or MapOptions(), quiet)


def _predict_maps(predictor: Predictor, source: Path, output: Path, options: MapOptions, quiet: bool) -> list[Path]:
    check_folders(source, output)
    scenes = find_scenes(source, predictor.modalities)
    windows, legend = _windows(options, predictor.tile), Legend.of(predictor)
    for scene in scenes:
        with open_scene(scene, predictor.modalities):
            pass
    outputs = [Outputs.of(output, scene.name, options) for scene in scenes]
    prepare(outputs, options.overwrite)
    for number, (scene, files) in enumerate(zip(scenes, outputs), 1):
        counting = Counting(f"parts of {scene.name} (scene {number} of {len(scenes)})", quiet, ends=True)
        with open_scene(scene, predictor.modalities) as opened, counting:
            mapped = _Mapped(predictor, opened, windows, legend, files)
            mapped.write(counting)
            mapped.write_beside()
    return [files.map for files in outputs]


def _windows(options: MapOptions, tile: int) -> Windows:
    side = options.window or tile
    return Windows(side, int(side * options.overlap), options.batch or max(1, _BATCH_PIXELS // side**2))


class _Mapped:
    """Map one scene that is open."""

    def __init__(self, predictor: Predictor, scene: OpenScene, windows: Windows, legend: Legend, files: Outputs):
        self._predictor, self._scene, self._windows = predictor, scene, windows
        self._legend, self._files = legend, files
        view = choose_view({name: predictor.modalities[name] for name in scene.sources})
        self._small = Thumbnail(scene.shape, view, _PICTURE)

    def write(self, progress: Callable[[int, int], None]) -> None:
        """Write the map, and the probabilities where they are asked for."""
        scene, legend, files = self._scene, self._legend, self._files
        tags = {
            "class_names": json.dumps(legend.names, ensure_ascii=False),
            "class_colors": json.dumps(legend.colors),
            "modalities": "+".join(scene.sources),
        }
        bands = 1 + len(legend.names) * (files.probabilities is not None)
        check_space(files.map.parent, scene.name, scene.grid, bands)
        parts = self._windows.steps(scene.shape, len(legend.names), scene.channels)
        blocks = self._windows.blend(self._read, scene.shape, self._predict, len(legend.names), scene.channels)
        with graceful() as caught, contextlib.ExitStack() as stack:
            land = stack.enter_context(CloudGeoTiff(files.map, scene.grid, ["class"], tags, colors=legend.table))
            shares = None
            if files.probabilities is not None:
                made = CloudGeoTiff(files.probabilities, scene.grid, legend.names, tags, scale=1 / CERTAIN)
                shares = stack.enter_context(made)
            for done, block in enumerate(blocks, 1):
                if caught:
                    raise Stopped(caught[0], f"in scene {scene.name}", "maps that were complete stay")
                found = block.probabilities.argmax(axis=-1).astype(np.uint8)
                found[~block.there] = NODATA
                land.write(block.rows, block.columns, found[None])
                if shares is not None:
                    scaled = np.rint(np.clip(block.probabilities, 0, 1) * CERTAIN).astype(np.uint8)
                    scaled[~block.there] = NODATA
                    shares.write(block.rows, block.columns, np.moveaxis(scaled, -1, 0))
                progress(done, parts)

    def write_beside(self) -> None:
        """Write the names of the classes and, where they are asked for, the picture and the STAC item."""
        scene, legend, files = self._scene, self._legend, self._files
        write_whole(files.names, side_file(legend))
        if files.picture is not None:
            from mmfl_jax.maps.quicklook import picture

            content = picture(self._small.image, self._small.view, scene.name, scene.grid, files.map, legend)
            write_whole(files.picture, content)
        if files.item is not None:
            from mmfl_jax.maps.stac import item

            tags = [source.tags for source in scene.sources.values()]
            made = item(scene.name, scene.grid, files, legend, tags, list(scene.sources))
            write_whole(files.item, json.dumps(made, indent=2, ensure_ascii=False))

    def _read(self, rows: slice, columns: slice) -> Images:
        images = self._scene.read(rows, columns)
        if self._files.picture is not None:
            # Files are read once: to read them again for a picture would take a third of the time.
            self._small.add(rows, columns, images[self._small.view.modality])
        return images

    def _predict(self, inputs: Images) -> np.ndarray:
        found = np.asarray(self._predictor.probabilities(inputs))
        if not np.isfinite(found).all():
            raise UserError(
                f"{self._scene.name}: the model's probabilities are no numbers here; it has diverged, train it again"
            )
        return found
