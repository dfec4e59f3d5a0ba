# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data
#
# Arrays in a file, tiles in folders, an archive class for anything else, and an algorithm of your own. All data are
# made here; put yours in their place.
#
# **Runtime:** any; under two minutes on two CPU cores.

# %%
# Install mmfl_jax where it is not there yet (Colab): from a wheel that lies here, else from the package index.
import glob
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("mmfl_jax") is None:
    wheel = (glob.glob("mmfl_jax-*.whl") or ["mmfl_jax"])[0]
    if subprocess.call([sys.executable, "-m", "pip", "install", "-q", wheel]):
        raise SystemExit(
            "mmfl_jax is not installed: put its wheel beside this notebook (pip wheel --no-deps . makes it)"
        )

# %% [markdown]
# ## Arrays
#
# One `.npz` file: `label`, one array for each modality (samples first), and any columns of one value a sample. Here
# radar and optical monthly series of four crops; each farm is a client and holds one of the two.

# %%
import tempfile
from pathlib import Path

import numpy as np
from IPython.display import Image, display

import mmfl_jax as mm

folder = Path(tempfile.mkdtemp())
rng = np.random.default_rng(0)
samples, months = 1200, np.arange(12)
crop = rng.integers(0, 4, samples)
season = np.cos((months - 3 - 2 * crop[:, None]) / 12 * 2 * np.pi)[..., None]
radar = season * [1.0, 0.5] + rng.normal(0, 1.5, (samples, 12, 2))
optical = season * [0.6, -0.4, 0.8, 0.2] + rng.normal(0, 1.2, (samples, 12, 4))
optical[rng.random((samples, 12)) < 0.3] = np.nan  # clouds: NaN is a missing value
np.savez(
    folder / "crops.npz",
    label=crop,
    class_names=np.array(["wheat", "maize", "rapeseed", "grass"]),
    radar=radar.astype(np.float32),
    optical=optical.astype(np.float32),
    farm=np.arange(samples) % 20,
)

study = mm.Study.of(
    archive=f"arrays:{folder}/crops.npz",
    partition="by:farm",
    test_split="0.25",
    method="mf",
    rounds=12,
    evaluate_every=2,
    client_learning_rate=3e-3,
)
mm.Simulation(study).run(folder / "crops")
display(Image(folder / "crops" / "figures" / "scores.png", width=800))

# %% [markdown]
# ## Tiles
#
# A folder of GeoTIFFs for each modality and one called `labels`; equal file names are one tile. `classes.csv` names
# the values.

# %%
import rasterio

tiles = folder / "tiles"
for name in ("s1", "s2", "labels"):
    (tiles / name).mkdir(parents=True)
(tiles / "classes.csv").write_text("value,name,color\n0,land,#c9b58f\n1,water,#419bdf\n")
for i in range(40):
    y, x = np.mgrid[:32, :32]
    water = np.hypot(y - rng.uniform(0, 32), x - rng.uniform(0, 32)) < rng.uniform(6, 16)
    layers = {
        "s1": rng.normal(np.where(water, -20.0, -10.0), 3.0, (2, 32, 32)).astype(np.float32),
        "s2": rng.normal(np.where(water, 300.0, 1500.0), 400.0, (4, 32, 32)).clip(0).astype(np.uint16),
        "labels": water[None].astype(np.uint8),
    }
    for name, values in layers.items():
        shape = {"count": len(values), "height": 32, "width": 32, "dtype": values.dtype}
        place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000 + 320 * i, 0, -10, 5_400_000)}
        with rasterio.open(tiles / name / f"{i:02}.tif", "w", driver="GTiff", **shape, **place) as file:
            file.write(values)

study = mm.Study.of(
    archive=f"tiles:{tiles}",
    partition="iid",
    clients=4,
    test_split="0.2",
    method="mf",
    width=4,
    rounds=4,
    local_epochs=5,
    batch_size=2,
    client_learning_rate=1e-2,
)
scores = mm.Simulation(study).run()["evaluation"]
print({sensors: round(score["miou"], 3) for sensors, score in scores.items()}, "mean IoU")

# %% [markdown]
# ## An archive of your own
#
# Whatever `read` returns, from wherever: here a folder with a `.npy` file for each sample, read when it is asked for.

# %%
(folder / "npy").mkdir()
for i, series in enumerate(np.nan_to_num(optical).astype(np.float32)):
    np.save(folder / "npy" / f"{crop[i]}-{i:04}.npy", series)


class Folder(mm.archives.Archive):
    """Read one series a file; the class is the first part of its name."""

    name, task, splits, notes = "folder", "multiclass", None, {}

    def __init__(self, path):
        self.files = sorted(Path(path).glob("*.npy"))
        if not self.files:
            raise mm.UserError(f"{path}: no .npy file in it")
        self.labels = np.array([int(file.name.partition("-")[0]) for file in self.files], np.int32)
        self.class_names = tuple(str(number) for number in range(self.labels.max() + 1))
        shape = np.load(self.files[0]).shape
        self.modalities = {"series": mm.archives.ModalitySpec(shape, tuple(f"band {i}" for i in range(shape[-1])))}
        self.attributes = {}

    def read(self, modality, indices):
        return np.stack([np.load(self.files[i]) for i in indices])


archive = Folder(folder / "npy")
federation = mm.Federation.split(archive, "dirichlet:0.5", clients=10, test_split="0.25")
study = mm.Study.of(method="mf", rounds=8, client_optimizer="sgd", client_learning_rate=0.1)
print(mm.Simulation(study, federation).run()["evaluation"]["series"]["accuracy"], "accuracy with FedAvg")

# %% [markdown]
# ## An algorithm of your own
#
# Pure functions of parameters: here the server's momentum. Its state comes in and goes out.


# %%
def momentum(beta: float = 0.9) -> mm.algorithms.Algorithm:
    """Momentum: the server goes on in the direction of former rounds."""

    def update(aggregate, velocity, params):
        velocity = {n: beta * v + aggregate.value["change"][n] for n, v in velocity.items()}
        return {n: x + aggregate.rate * velocity[n] for n, x in params.items()}, velocity

    return mm.algorithms.Algorithm(init=mm.algorithms.zeros, update=update)


mm.algorithms.register("momentum", momentum)
runs = {"fedavg": "fedavg", "momentum": "momentum:0.5"}
for name, algorithm in runs.items():
    mm.Simulation(study.replace(name=name, algorithm=algorithm, evaluate_every=1), federation).run(folder / name)
mm.report.write_comparison([folder / name for name in runs], folder / "compare.png")
display(Image(folder / "compare.png", width=800))
