"""Small federations for tests: series and images from a seed, in memory."""

from __future__ import annotations

import numpy as np

from mmfl_jax import Simulation, Study
from mmfl_jax.archives.base import IGNORED, Archive, ModalitySpec
from mmfl_jax.federation import Federation
from mmfl_jax.models.encoders import EncoderKind, ResNet, ResNetDesign, register_encoder
from mmfl_jax.tasks import find

# Two of ResNet-8's three stages: all that it has, a skip and a coarser map, and compiled in half the time.
register_encoder(
    "resnet6", EncoderKind(lambda shape, _, norm, rngs: ResNet(shape, ResNetDesign((1, 1), 4), norm, rngs), axes=3)
)


class MemoryArchive(Archive):
    """Hold an archive of random images whose classes shift their means."""

    def __init__(self, samples=60, shapes=None, classes=3, task="multilabel", seed=0):
        rng = np.random.default_rng(seed)
        self.name, self.task, self.notes, self.splits = "memory", task, {}, None
        self.class_names = tuple(f"class {i}" for i in range(classes))
        shapes = shapes or {"s1": (5, 2), "s2": (5, 3)}
        if task == "multilabel":
            self.labels = (rng.random((samples, classes)) < 0.4).astype(np.uint8)
            signal = self.labels @ rng.normal(size=(classes, 1))
        elif task == "pixel":
            shapes = shapes if "s1" in shapes and len(shapes["s1"]) == 3 else {"s1": (8, 8, 2), "s2": (8, 8, 3)}
            height, width = shapes["s1"][:2]
            quarters = rng.integers(0, classes, (samples, 2, 2)).repeat(height // 2, axis=1).repeat(width // 2, axis=2)
            self.rasters = quarters.astype(np.uint8)
            self.rasters[rng.random(self.rasters.shape) < 0.1] = IGNORED
            self.labels = find("pixel", classes).table(self.rasters)
            signal = rng.normal(size=(classes, 1))[quarters]
        else:
            self.labels = rng.integers(0, classes, samples).astype(np.int32)
            signal = rng.normal(size=(classes, 1))[self.labels]
        self.modalities, self.images = {}, {}
        for i, (name, shape) in enumerate(shapes.items()):
            self.modalities[name] = ModalitySpec(shape, tuple(str(c) for c in range(shape[-1])))
            noise = rng.normal(size=(samples, *shape))
            signal = signal if task == "pixel" else signal.reshape(-1, *[1] * len(shape))
            self.images[name] = (noise + (i + 1) * signal).astype(np.float32)
        self.attributes = {"region": np.array([f"r{i % 7}" for i in range(samples)])}

    def read(self, modality, indices):
        return self.images[modality][self.checked(modality, indices)]

    def read_labels(self, indices):
        return self.rasters[indices] if self.task == "pixel" else super().read_labels(indices)


def ragged_federation(sizes, held, **archive):
    """Return a federation of clients of these sizes that hold these modality sets, and 20 test samples."""
    memory = MemoryArchive(samples=sum(sizes) + 20, **archive)
    ends = np.cumsum(sizes)
    clients = [
        (f"client {i}", modalities, np.arange(end - size, end))
        for i, (size, end, modalities) in enumerate(zip(sizes, ends, held))
    ]
    return Federation.of(memory, clients, np.arange(ends[-1], len(memory)))


def simulation(federation, **options):
    """Return a simulation with plain SGD, whose steps do not amplify rounding as Adam's first ones do."""
    defaults = {"client_optimizer": "sgd", "client_learning_rate": 0.05, "batch_size": 16, "width": 8, "mim_size": 8}
    return Simulation(Study.of(**{**defaults, **options}), federation)


def write_study(folder, **options):
    """Write an archive of two series, and a study of it that runs in seconds; return the study's file."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 120).astype(np.int32)
    signal = rng.normal(size=(3, 1, 1))[label]
    np.savez(
        folder / "archive.npz",
        s1=(signal + rng.normal(size=(120, 5, 2))).astype(np.float32),
        s2=(signal + rng.normal(size=(120, 5, 3))).astype(np.float32),
        label=label,
        class_names=np.array(["wheat", "maize", "rye", "nobody's"]),
        region=np.array([f"r{i % 7}" for i in range(120)]),
    )
    defaults = {"archive": f"arrays:{folder / 'archive.npz'}", "partition": "by:region", "clients": 4, "rounds": 2}
    small = {"method": "mf", "client_optimizer": "sgd", "batch_size": 16, "width": 8, "mim_size": 8}
    lines = [f"    {name}={value!r}," for name, value in {**defaults, **small, **options}.items()]
    path = folder / "small.py"
    path.write_text(
        "\n".join(["from mmfl_jax import Study", "", "study = Study.of(", '    name="small",', *lines, ")", ""])
    )
    return path
