"""BigEarthNet-MM, v1 and v2, from its published folders: a GeoTIFF a band, a folder a patch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mmfl_jax.archives import bigearthnet_nomenclature as nomenclature
from mmfl_jax.archives.base import FILL, Archive, ModalitySpec, choose_modalities
from mmfl_jax.archives.bigearthnet_trees import THREADS, PatchTable, scan_v1, scan_v2
from mmfl_jax.archives.resampling import resize
from mmfl_jax.errors import UserError


class BigEarthNet(Archive):
    """Read pairs of Sentinel-1 and Sentinel-2 patches (or one of the two) as they were published.

    Args:
        directory: holds ``BigEarthNet-v1.0`` and ``BigEarthNet-S1-v1.0`` (v1), or ``BigEarthNet-S2``,
            ``BigEarthNet-S1`` and ``metadata.parquet`` (v2).
        modalities: of ``s1`` (VV and VH in dB) and ``s2`` (reflectance x 10,000); those that are there by default.
        image_size: height and width; bands are averaged over area where they shrink.
        bands: 10, or 12 with the two 60 m bands; those have no published statistics.
        resampling: ``bilinear`` or ``nearest``, for bands that grow.

    Raises:
        UserError: no such tree, no patch, no pair, a label that is unknown.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        modalities: tuple[str, ...] | None = None,
        image_size: int = nomenclature.PATCH_SIZE,
        bands: int = 10,
        resampling: str = "bilinear",
    ):
        folders, scan = _look(Path(directory))
        chosen = choose_modalities(modalities, folders, f"{directory}")
        table = scan(Path(directory), {name: folders[name] for name in chosen})
        self.name, self.task = "bigearthnet", "multilabel"
        self.class_names = nomenclature.CLASS_NAMES
        self.modalities = {name: specify(name, image_size, bands) for name in chosen}
        self.labels = table.labels
        self.attributes = {
            "country": np.array(table.country),
            "season": np.array(table.season),
            "patch_id": np.array(table.patch_id),
            "place": np.array(table.place),
        }
        self.splits = None if table.split is None else np.array(table.split)
        self.notes = {"path": str(directory), **table.notes}
        self._folders, self._resampling = table.folders, resampling
        self._missing: dict[str, int] = {}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Read and resample the bands of the patches, several files at a time."""
        from rasterio.errors import NotGeoreferencedWarning

        indices = self.checked(modality, indices)
        spec, folders = self.modalities[modality], self._folders[modality]
        images = np.empty((len(indices), *spec.shape), np.float32)

        missing: dict[str, int] = {}

        def fill(place: int) -> None:
            folder = folders[indices[place]]
            for number, band in enumerate(spec.channels):
                path = os.path.join(folder, f"{os.path.basename(folder)}_{band}.tif")
                pixels = read_band(path, nomenclature.BAND_SIZES[band])
                if count := int(np.isnan(pixels).sum()):
                    missing[path] = count
                images[place, ..., number] = resize(pixels, spec.shape[:2], self._resampling)

        # Only pixels are used, so where a file lies on Earth does not matter. Set here and not in the threads:
        # the warning filter belongs to the whole process.
        with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            list(pool.map(fill, range(len(indices))))
        if new := {path: count for path, count in missing.items() if path not in self._missing}:
            self._missing.update(new)
            self.notes["missing_pixels"] = {"files": len(self._missing), "pixels": sum(self._missing.values())}
            first, count = next(iter(new.items()))
            warnings.warn(
                f"{len(new)} files have pixels that are no measurements (NaN, infinite or fill values) and count as "
                f"missing, first {first} with {count}",
                stacklevel=2,
            )
        return images


def specify(modality: str, image_size: int, bands: int) -> ModalitySpec:
    """Return the specification of ``s1`` or ``s2`` with the archive's statistics, where all bands have them."""
    optical = nomenclature.S2_BANDS_10 if bands == 10 else nomenclature.S2_BANDS_12
    channels = nomenclature.S1_CHANNELS if modality == "s1" else optical
    shape = (image_size, image_size, len(channels))
    if not set(channels) <= set(nomenclature.STATISTICS):
        return ModalitySpec(shape, channels)
    mean, std = np.array([nomenclature.STATISTICS[channel] for channel in channels], np.float32).T
    return ModalitySpec(shape, channels, mean, std)


def read_band(path: str, size: int) -> np.ndarray:
    """Read one band as float32 [size, size]; NaN for pixels that are infinite, NaN or fill values.

    Raises:
        UserError: a file that is missing, damaged, of another size, of several bands or of complex numbers.
    """
    import rasterio

    try:
        # Without this GDAL lists the folder of every file, in search of side files.
        with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), rasterio.open(path) as file:
            if file.shape != (size, size):
                raise UserError(f"{path}: {file.height} x {file.width} pixels, this band has {size} x {size}")
            if file.count != 1:
                raise UserError(f"{path}: {file.count} bands in the file, this is of one band")
            if np.dtype(file.dtypes[0]).kind not in "uif":
                raise UserError(f"{path}: pixels are {file.dtypes[0]}; real numbers are needed")
            pixels = file.read(1)
    except UserError:
        raise
    except Exception as error:  # GDAL has many ways to fail on damaged bytes
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file; the patch lacks this band") from None
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(f"{path}: cannot be read as a GeoTIFF, damaged or cut short ({reason})") from error
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32)
    # Neither NaN nor what is too large to be measured is in the archive as published: missing, and counted.
    return np.where(np.abs(pixels) < np.float64(FILL), pixels, np.nan).astype(np.float32)


Scan = Callable[[Path, dict[str, Path]], PatchTable]


def _look(directory: Path) -> tuple[dict[str, Path], Scan]:
    """Return the folder of each modality and the function that scans this version of the archive."""
    if not os.path.isdir(directory):
        raise UserError(f"{directory}: no such folder; bigearthnet:DIR needs the one that holds the archive")
    versions: dict[Scan, dict[str, str]] = {
        scan_v1: {"s1": "BigEarthNet-S1-v1.0", "s2": "BigEarthNet-v1.0"},
        scan_v2: {"s1": "BigEarthNet-S1", "s2": "BigEarthNet-S2"},
    }
    found = {
        scan: present
        for scan, names in versions.items()
        if (present := {modality: directory / name for modality, name in names.items() if (directory / name).is_dir()})
    }
    if not found:
        expected = " or ".join("+".join(names.values()) for names in versions.values())
        raise UserError(f"{directory}: not a BigEarthNet tree; it should hold the folders {expected}")
    if len(found) > 1:
        raise UserError(f"{directory}: holds both v1 and v2 of BigEarthNet; give each a folder of its own")
    scan, folders = found.popitem()
    return folders, scan
