"""What the benchmarks of rounds share: devices, the row's account of the machine, random federations, rows to files."""

from __future__ import annotations

import argparse
import json
import os
import pathlib

import flax
import jax
import numpy as np
from ops import host as ops_host

from mmfl_jax import __version__
from mmfl_jax.archives.base import Archive, ModalitySpec
from mmfl_jax.federation import Federation

Shape = tuple[int, ...]


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark of rounds."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="a short run")
    made.add_argument("--devices", type=int, default=0, help="devices; 0 for every GPU, or one CPU device a core")
    made.add_argument("--output", type=pathlib.Path, default=None, help="file to append JSON rows to")
    return made


def use_devices(devices: int) -> None:
    """Make CPU devices; call it before anything runs on one."""
    jax.config.update("jax_num_cpu_devices", devices or usable_cores())


def host() -> dict:
    """Return what ran where: processor, cores, devices, versions, date, and how busy the machine was before."""
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    versions = {"flax": flax.__version__, "numpy": np.__version__, "mmfl_jax": __version__}
    return ops_host() | versions | {"usable_cores": usable_cores(), "devices": jax.device_count(), "load": load}


def emit(row: dict, output: pathlib.Path | None) -> None:
    """Print a row as JSON and append it to a file."""
    print(json.dumps(row), flush=True)
    if output:
        with output.open("a") as file:
            file.write(json.dumps(row) + "\n")


class RandomArchive(Archive):
    """Hold samples of random numbers with random labels: it serves timing, not learning.

    Args:
        samples: how many.
        shapes: of a sample, by modality.
        classes: of the multi-label task.
    """

    def __init__(self, samples: int, shapes: dict[str, Shape], classes: int):
        rng = np.random.default_rng(0)
        self.name, self.task, self.notes, self.splits, self.attributes = "random", "multilabel", {}, None, {}
        self.class_names = tuple(f"class {i}" for i in range(classes))
        self.labels = (rng.random((samples, classes)) < 0.2).astype(np.uint8)
        self.images = {m: rng.standard_normal((samples, *s), np.float32) for m, s in shapes.items()}
        # Zero mean and unit variance as published statistics: nothing is to be measured.
        unit = lambda n: (np.zeros(n, np.float32), np.ones(n, np.float32))
        self.modalities = {m: ModalitySpec(s, tuple(map(str, range(s[-1]))), *unit(s[-1])) for m, s in shapes.items()}

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return the samples' numbers."""
        return self.images[modality][self.checked(modality, indices)]


def random_federation(clients: int, samples: int, shapes: dict[str, Shape], classes: int = 19) -> Federation:
    """Return clients of ``samples`` random samples each that hold one modality, by turns."""
    archive = RandomArchive(min(clients * samples, 4096) + 32, shapes, classes)
    names = tuple(shapes)
    starts = [i * samples % (len(archive) - 32 - samples + 1) for i in range(clients)]
    parts = [(f"client {i}", (names[i % len(names)],), np.arange(a, a + samples)) for i, a in enumerate(starts)]
    return Federation.of(archive, parts, np.arange(len(archive) - 32, len(archive)))
