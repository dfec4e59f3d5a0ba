"""Measure a map of a whole Sentinel-2 tile: seconds and peak memory beside what the model needs.

    python benchmarks/maps.py [--quick] [--side 10980] [--window 256] [--probabilities] [--folder DIR] [--output FILE]

Answers: how long reading, cutting, blending and writing take for a scene of 10,980 x 10,980 pixels with 2 bands of
float32 and 10 of uint16 (DEFLATE, blocks of 512), and whether memory is bounded. The model is a linear function of the
bands, pixel by pixel, in NumPy: its own seconds are measured apart. The scene is written into a temporary folder
(about 3 GB), or into ``--folder`` and kept there. The map is made in a process of its own, whose peak memory
(``ru_maxrss``) holds Python, NumPy, GDAL and matplotlib too; JAX and a real model come on top.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import rasterio
from affine import Affine

from mmfl_jax import __version__
from mmfl_jax.archives.base import ModalitySpec
from mmfl_jax.maps import MapOptions, predict_maps

BANDS = {
    "s1": ("VV", "VH"),
    "s2": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
}
CLASSES = 10


class Linear:
    """Give each pixel probabilities by a linear function of its bands, and keep account of the time that takes."""

    class_names = tuple(f"class {number}" for number in range(CLASSES))
    class_colors = None

    def __init__(self, tile: int):
        rng = np.random.default_rng(0)
        self.tile, self.seconds = tile, 0.0
        self.modalities = {name: ModalitySpec((tile, tile, len(bands)), bands) for name, bands in BANDS.items()}
        scale = {"s1": 20, "s2": 3000}
        self.weights = {
            name: (rng.normal(size=(len(bands), CLASSES)) / scale[name]).astype(np.float32)
            for name, bands in BANDS.items()
        }

    def probabilities(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Return the positive parts of the linear function, which sum to one."""
        begin = time.perf_counter()
        logits = sum(np.nan_to_num(images) @ self.weights[name] for name, images in inputs.items())
        positive = np.maximum(logits, 1e-3)
        positive /= positive.sum(axis=-1, keepdims=True)
        self.seconds += time.perf_counter() - begin
        return positive


def write_scene(folder: pathlib.Path, side: int) -> None:
    """Write one scene of both sensors: fields of 30 pixels with noise."""
    rng = np.random.default_rng(0)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 399_960, 0, -10, 5_300_040)}
    layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "DEFLATE", "zlevel": 1}
    for name, bands in BANDS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        optical = name == "s2"
        shape = {"width": side, "height": side, "count": len(bands), "dtype": "uint16" if optical else "float32"}
        level, spread, noise = (1500, 900, 80) if optical else (-14, 4, 2)
        fields = rng.normal(level, spread, (len(bands), -(-side // 30) + 1, -(-side // 30)))
        grain = rng.normal(0, noise, (len(bands), 512, side)).astype(np.float32)
        path, more = folder / name / "tile.tif", {"predictor": 2 if optical else 3, "num_threads": 2}
        with rasterio.open(path, "w", driver="GTiff", BIGTIFF="YES", **shape, **place, **layout, **more) as file:
            file.descriptions = bands
            for top in range(0, side, 512):
                rows = np.arange(top, min(top + 512, side))
                values = fields[:, rows // 30][:, :, np.arange(side) // 30] + grain[:, : len(rows)]
                values = np.clip(values, 0, 10_000) if optical else values
                file.write(values.astype(shape["dtype"]), window=rasterio.windows.Window(0, top, side, len(rows)))


def measure(folder: pathlib.Path, output: pathlib.Path, window: int, probabilities: bool) -> None:
    """Map the scene in this process, and print what it took as JSON."""
    model = Linear(window)
    begin = time.perf_counter()
    (path,) = predict_maps(model, folder, output, MapOptions(probabilities=probabilities), quiet=False)
    seconds = time.perf_counter() - begin
    found = {
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time(), 1),
        "model_seconds": round(model.seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "map_mb": round(path.stat().st_size / 1e6, 1),
    }
    print(json.dumps(found))


def main() -> None:
    """Write the scene, map it in a process of its own, print a JSON row."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="a scene of 1,500 x 1,500 pixels")
    options.add_argument("--side", type=int, default=10_980)
    options.add_argument("--window", type=int, default=256)
    options.add_argument("--probabilities", action="store_true")
    options.add_argument("--folder", type=pathlib.Path, default=None, help="keep the scene there, and use it again")
    options.add_argument("--output", type=pathlib.Path, default=None, help="file to append the JSON row to")
    options.add_argument("--write", type=pathlib.Path, help=argparse.SUPPRESS)
    options.add_argument("--measure", type=pathlib.Path, nargs=2, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.write:
        write_scene(args.write, args.side)
        return
    if args.measure:
        measure(*args.measure, args.window, args.probabilities)
        return
    side = 1500 if args.quick else args.side
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or pathlib.Path(temporary) / "scene"
        itself = [sys.executable, __file__]
        if not folder.exists():  # in a process of its own too: what a parent has used counts as its child's peak
            subprocess.run([*itself, "--write", str(folder), "--side", str(side)], check=True)
        command = [*itself, "--measure", str(folder), str(pathlib.Path(temporary) / "maps")]
        command += ["--window", str(args.window)] + ["--probabilities"] * args.probabilities
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    row = {
        "benchmark": "maps",
        "side": side,
        "bands": {name: len(bands) for name, bands in BANDS.items()},
        "classes": CLASSES,
        "window": args.window,
        "probabilities": args.probabilities,
        **found,
        "megapixels_per_second": round(side**2 / 1e6 / found["seconds"], 2),
        "scene_mb": round(side**2 * (2 * 4 + 10 * 2) / 1e6),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "rasterio": rasterio.__version__,
        "gdal": rasterio.__gdal_version__,
        "mmfl_jax": __version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    print(json.dumps(row), flush=True)
    if args.output:
        with args.output.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
