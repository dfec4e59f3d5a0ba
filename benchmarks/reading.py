"""Measure how fast pairs of BigEarthNet are read: from the published tree, from an LMDB, from a prepared copy.

    python benchmarks/reading.py [--quick] [--pairs N] [--keep DIR] [--workers N] [--output FILE]

Writes a tree of v2 (files as published: uncompressed GeoTIFFs of noise around each band's mean, with coordinates and
nodata), an LMDB as rico-hdl writes it, and a prepared copy, in a temporary directory or in --keep. A pair is Sentinel-1
and ten bands of Sentinel-2 brought to 120x120, float32. Files are in the page cache: this is what the processor does.

``pairs_per_core`` counts processor time of all threads, which other work on the machine lengthens less than the wall
clock of ``pairs_per_second``; each is the best of three turns, of the plain loop one. ``plain_loop`` is one
``rasterio.open`` a file in one environment, twelve files a pair, without bringing bands to one size. ``prepare`` runs
worker processes and keeps all fourteen files of a pair; ``share_gdal`` is the processor time that opening and reading
those files alone takes, of all processor time of the workers. ``memory`` copies as many bytes as a pair has, from
memory that is there to memory that is there: no reader of float32 can be faster.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from common import emit, host, parser

from mmfl_jax import archives
from mmfl_jax.archives.bigearthnet import nomenclature
from mmfl_jax.archives.prepared.prepare import prepare

AT_ONCE = 32
TILE, ZONE = "33UUP", 32633
PLAIN_BANDS = (*nomenclature.S1_CHANNELS, *nomenclature.S2_BANDS_10)
ALL_BANDS = (*nomenclature.S1_CHANNELS, *nomenclature.S2_BANDS_12)


def names(number: int) -> tuple[str, str]:
    """Return the names of both patches of a pair."""
    place = f"{number // 100}_{number % 100}"
    return f"S2A_MSIL2A_20170613T101031_N9999_R022_T{TILE}_{place}", f"S1A_IW_GRDH_1SDV_20170613T165043_{TILE}_{place}"


def band_path(tree: pathlib.Path, number: int, band: str) -> pathlib.Path:
    """Return where the file of a band lies in a tree of v2."""
    optical, radar = names(number)
    if band in nomenclature.S1_CHANNELS:
        return tree / "BigEarthNet-S1" / radar.rsplit("_", 3)[0] / radar / f"{radar}_{band}.tif"
    return tree / "BigEarthNet-S2" / optical.rsplit("_", 2)[0] / optical / f"{optical}_{band}.tif"


def pixels_of(band: str, rng: np.random.Generator) -> np.ndarray:
    """Return noise around a band's mean."""
    mean, std = nomenclature.STATISTICS.get(band, (500.0, 300.0))
    noise = rng.standard_normal((nomenclature.BAND_SIZES[band],) * 2, np.float32) * (std / 4) + mean
    return noise if band in nomenclature.S1_CHANNELS else noise.clip(1, 10_000).astype(np.uint16)


def write_tree(tree: pathlib.Path, pairs: int) -> None:
    """Write a tree of v2 and its metadata."""
    import pyarrow
    import pyarrow.parquet
    import rasterio

    rng, rows = np.random.default_rng(0), []
    for number in range(pairs):
        optical, radar = names(number)
        for band in ALL_BANDS:
            pixels, path = pixels_of(band, rng), band_path(tree, number, band)
            path.parent.mkdir(parents=True, exist_ok=True)
            size = len(pixels)
            kind: dict[str, Any] = {"height": size, "width": size, "count": 1, "dtype": pixels.dtype, "crs": ZONE}
            corner = rasterio.transform.from_origin(3e5 + 1200 * number, 5e6, 1200 / size, 1200 / size)
            nodata = None if band in nomenclature.S1_CHANNELS else 0
            with rasterio.open(path, "w", driver="GTiff", transform=corner, nodata=nodata, **kind) as file:
                file.write(pixels, 1)
        split, country = ("train", "validation", "test")[number % 3], nomenclature.COUNTRIES[number % 10]
        v1 = "_".join(optical.split("_")[:3] + optical.split("_")[-2:])
        row = {"patch_id": optical, "labels": [nomenclature.CLASS_NAMES[number % 19]], "split": split}
        rows.append(row | {"country": country, "s1_name": radar, "s2v1_name": v1})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tree / "metadata.parquet")


def write_lmdb(folder: pathlib.Path, tree: pathlib.Path, pairs: int) -> None:
    """Write the tree's patches into an LMDB, and the metadata beside it."""
    import lmdb
    import rasterio
    import safetensors.numpy

    (folder / "metadata.parquet").write_bytes((tree / "metadata.parquet").read_bytes())
    with lmdb.open(str(folder / "Encoded-BigEarthNet"), map_size=1 << 34) as database:
        for number in range(pairs):
            with database.begin(write=True) as transaction:
                optical, radar = names(number)
                for name, bands in ((radar, nomenclature.S1_CHANNELS), (optical, nomenclature.S2_BANDS_12)):
                    arrays = {band: rasterio.open(band_path(tree, number, band)).read(1) for band in bands}
                    transaction.put(name.encode(), safetensors.numpy.save(arrays))


def timed(work: Callable[[], None], turns: int = 3) -> dict[str, float]:
    """Return the least wall-clock and processor seconds of some turns."""
    walls, cores = [], []
    for _ in range(turns):
        wall, core = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
    return {"wall": min(walls), "core": min(cores)}


def rates(pairs: int, seconds: dict[str, float]) -> dict[str, float]:
    """Return pairs a second, by the wall clock and by processor time."""
    return {
        "pairs_per_second": round(pairs / seconds["wall"], 1),
        "pairs_per_core": round(pairs / seconds["core"], 1),
    }


def read_all(archive: archives.Archive) -> None:
    """Read all samples in random order, some at once."""
    order = np.random.default_rng(0).permutation(len(archive))
    for start in range(0, len(order), AT_ONCE):
        for modality in archive.modalities:
            archive.read(modality, order[start : start + AT_ONCE])


def read_plainly(tree: pathlib.Path, pairs: int) -> None:
    """Read the files of all pairs in the plainest way."""
    import rasterio

    with rasterio.Env():
        for number in range(pairs):
            for band in PLAIN_BANDS:
                with rasterio.open(band_path(tree, number, band)) as file:
                    file.read(1)


def read_bands(tree: pathlib.Path, pairs: int) -> None:
    """Open and read the files of all pairs as ``prepare`` does, and do nothing else."""
    from mmfl_jax.archives.bigearthnet.geotiffs import GeoTiffs
    from mmfl_jax.archives.bigearthnet.trees_v2 import scan_v2

    bands = GeoTiffs(tree, {}, scan_v2)
    for number in range(pairs):
        for modality, channels in (("s1", nomenclature.S1_CHANNELS), ("s2", nomenclature.S2_BANDS_12)):
            folder = band_path(tree, number, channels[0]).parent
            bands.planes(modality, str(folder), nomenclature.by_size(channels))


def copy_memory(pairs: int) -> None:
    """Copy as many bytes as all pairs have, some at once."""
    shape = (AT_ONCE, nomenclature.PATCH_SIZE, nomenclature.PATCH_SIZE, len(PLAIN_BANDS))
    source, target = np.ones(shape, np.float32), np.ones(shape, np.float32)
    for _ in range(0, pairs, AT_ONCE):
        np.copyto(target, source)


def measure(folder: pathlib.Path, pairs: int, workers: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each way to read."""
    tree, encoded, copy = folder / "tree", folder / "lmdb", folder / "copy"
    if not (tree / "metadata.parquet").exists():
        write_tree(tree, pairs)
    if not encoded.exists():
        encoded.mkdir()
        write_lmdb(encoded, tree, pairs)
    yield {"way": "plain_loop"} | rates(pairs, timed(lambda: read_plainly(tree, pairs), 1))
    yield {"way": "tree"} | rates(pairs, timed(lambda: read_all(archives.open(f"bigearthnet:{tree}"))))
    yield {"way": "lmdb"} | rates(pairs, timed(lambda: read_all(archives.open(f"bigearthnet:{encoded}"))))
    shutil.rmtree(copy, ignore_errors=True)
    alone = timed(lambda: read_bands(tree, pairs), 2)["core"]
    processor = lambda: sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    before, begin = processor(), time.perf_counter()
    made = prepare(f"bigearthnet:{tree}", copy, workers=workers)
    seconds = {"wall": time.perf_counter() - begin, "core": processor() - before}
    found = {"workers": workers, "share_gdal": round(alone / seconds["core"], 3)}
    yield {"way": "prepare"} | rates(pairs, seconds) | found | {"bytes_per_pair": made["bytes"] // pairs}
    for resampling in ("bilinear", "nearest"):
        archive = archives.open(f"bigearthnet:{copy}", resampling=resampling)
        seconds = timed(lambda archive=archive: read_all(archive))
        yield {"way": "prepared", "resampling": resampling} | rates(pairs, seconds)
    seconds = timed(lambda: copy_memory(pairs))
    gigabytes = pairs * 4 * nomenclature.PATCH_SIZE**2 * len(PLAIN_BANDS) / 1e9
    yield {"way": "memory"} | rates(pairs, seconds) | {"gigabytes_per_second": round(gigabytes / seconds["core"], 2)}


def main() -> None:
    """Measure, print JSON rows and a table, append rows to a file."""
    options = parser(__doc__)
    options.add_argument("--pairs", type=int, default=0, help="of the tree; 0: 2,000, or 100 with --quick")
    options.add_argument("--keep", type=pathlib.Path, default=None, help="directory that the files are left in")
    options.add_argument("--workers", type=int, default=2, help="processes that prepare")
    args = options.parse_args()
    pairs = args.pairs or (100 if args.quick else 2000)
    if not 1 <= pairs <= 10_000 or args.workers < 1:
        options.error("--pairs must be from 1 to 10,000, --workers at least 1")
    # One core is one core: products of matrices would use all.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    account, rows = host(), []
    with contextlib.ExitStack() as stack:
        folder = args.keep or pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for row in measure(folder, pairs, args.workers):
            rows.append({"benchmark": "reading", "pairs": pairs, **row})
            emit({**rows[-1], "quick": args.quick, **account}, args.output)
    print(f"\n{'':20s} {'pairs/s':>9s} {'pairs/s a core':>15s}")
    for row in rows:
        name = " ".join(str(row[key]) for key in ("way", "resampling") if key in row)
        print(f"{name:20s} {row['pairs_per_second']:9,.0f} {row['pairs_per_core']:15,.0f}")


if __name__ == "__main__":
    main()
