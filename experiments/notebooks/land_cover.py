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
# # Land cover, and a map
#
# Owners learn land cover by pixel together, each with radar or optical tiles; the model then maps a scene. The tiles
# are synthetic, made on the fly.
#
# **Runtime:** any; under two minutes on two CPU cores, a GPU is used where there is one.

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
# ## Train
#
# Tiles of 96 x 96 pixels, ten countries with one sensor each; trained on random parts of 48 x 48 pixels. A small
# encoder, so that it is quick; `mmfl-jax run land_cover` is larger and longer.

# %%
import logging
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import rasterio
from IPython.display import Image, display

import mmfl_jax as mm
from mmfl_jax.maps import predict_maps, predictor_of

logging.getLogger("absl").setLevel("ERROR")  # no log lines when checkpoints are read
folder = Path(tempfile.mkdtemp())
study = mm.Study.of(
    name="land_cover",
    archive="twintiles",
    image_size=96,
    samples=240,
    partition="by:country",
    method="mf+fw",
    encoder="resnet8",
    width=8,
    crop=48,
    flips=True,
    class_weights="root",
    rounds=10,
    local_epochs=2,
    batch_size=4,
    client_learning_rate=5e-3,
    learning_rate_schedule="cosine",
    evaluate_every=10,
    checkpoint_every=10,
)
summary = mm.Simulation(study).run(folder / "run")
print({sensors: round(score["miou"], 3) for sensors, score in summary["evaluation"].items()}, "mean IoU")

# %% [markdown]
# ## A scene
#
# Other land than that of training (another seed), written as a satellite product would be: a GeoTIFF for each sensor,
# with coordinates. Four tiles side by side.

# %%
land = mm.archives.open("twintiles", image_size=96, samples=4, seed=11)
beside = lambda tiles: np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)])
for modality, spec in land.modalities.items():
    values = np.moveaxis(beside(land.read(modality, np.arange(4))), -1, 0)
    (folder / "scenes" / modality).mkdir(parents=True)
    shape = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": "float32"}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_400_000)}
    with rasterio.open(folder / "scenes" / modality / "valley.tif", "w", driver="GTiff", **shape, **place) as file:
        file.descriptions = spec.channels
        file.write(values)

# %% [markdown]
# ## The map
#
# `mmfl-jax predict RUN --input scenes --output maps` does the same: a GeoTIFF with colours and class names, and a
# picture.

# %%
maps = predict_maps(predictor_of(folder / "run"), folder / "scenes", folder / "maps")
display(Image(folder / "maps" / "valley.png", width=800))

# %% [markdown]
# Beside what is there. Where radar or optical images alone are at hand, the same model maps those: leave a folder
# out.

# %%
truth = beside(land.read_labels(np.arange(4)))
with rasterio.open(maps[0]) as file:
    found = file.read(1)
classes = plt.matplotlib.colors.ListedColormap(land.class_colors)
figure, panels = plt.subplots(1, 2, figsize=(9, 4.5), layout="constrained")
for panel, image, title in zip(panels, (truth, found), ("what is there", "the map")):
    panel.imshow(image, cmap=classes, vmin=-0.5, vmax=len(land.class_names) - 0.5, interpolation="nearest")
    panel.set(title=title, xticks=[], yticks=[])
plt.show()
print(f"{(truth == found).mean():.0%} of the pixels are right")
