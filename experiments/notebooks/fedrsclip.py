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
# # Prompts on a frozen CLIP
#
# FedRSCLIP: CLIP stays as it is, owners learn a few prompt vectors. A shared prompt is averaged, a private one stays
# with its owner. No weights are downloaded: a very small CLIP is trained here first, on synthetic scenes of half of
# the classes.
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
# ## A small CLIP
#
# With weights of your own (a folder with `model.safetensors`, `config.json` and `tokenizer.json` of ViT-B/32, say),
# skip this and put the folder's name into `clip=` below; images in folders need the extra `mmfl_jax[clip]`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mmfl_jax as mm
from mmfl_jax.models.clip.pretrain import IMAGE_SEED, SMALL, Training, half, train
from mmfl_jax.models.clip.save import save

folder = Path(tempfile.mkdtemp())
scenes = mm.archives.open("twinscenes", image_size=SMALL.image_size, samples=2000, seed=IMAGE_SEED)
known = half(scenes.class_names)
clip = save(train(scenes, known, training=Training(steps=150)), folder / "clip", trained_classes=list(known))
print("knows:", ", ".join(known))

# %% [markdown]
# ## What it is to classify
#
# All classes, those that this CLIP never saw among them.

# %%
archive = mm.archives.open("twinscenes", image_size=SMALL.image_size, samples=1200)
figure, panels = plt.subplots(2, 7, figsize=(11, 3.6), layout="constrained")
for number, panel in enumerate(panels.flat):
    image = archive.read("rgb", np.flatnonzero(archive.labels == number)[:1])[0]
    panel.imshow((image - image.min()) / (image.max() - image.min()))
    panel.set(xticks=[], yticks=[])
    name = archive.class_names[number]
    panel.set_title(name, fontsize=7, color="black" if name in known else "#d55e00")
plt.show()

# %% [markdown]
# ## Prompts
#
# Twelve owners with skewed classes. Zero-shot asks CLIP as it is; *own* is the mean accuracy of owners on test scenes
# in their own shares of classes.

# %%
base = mm.Study.of(
    archive="twinscenes",
    samples=1200,
    clip=str(clip),
    partition="dirichlet:0.3",
    clients=12,
    test_split="0.5",
    local_epochs=3,
    client_learning_rate=3e-2,
    learning_rate_schedule="cosine",
    evaluate_every=6,
    feature_cache=str(folder / "features"),
)
methods = {"zero-shot": "clip", "PromptFL": "promptfl", "local prompts": "local-prompts", "FedRSCLIP": "fedrsclip"}
results = {
    name: mm.Simulation(base.replace(method=method, rounds=0 if method == "clip" else 6)).run()
    for name, method in methods.items()
}

# %%
everybody = [summary["evaluation"]["rgb"]["accuracy"] for summary in results.values()]
own = [summary["personal"]["mean"] for summary in results.values()]
sent = [summary["communication"]["bytes_up_per_client"] for summary in results.values()]
figure, panel = plt.subplots(figsize=(8, 3.6), layout="constrained")
at = np.arange(len(results))
panel.bar(at - 0.2, everybody, 0.38, label="all classes, shared prompt", color="#0072b2")
panel.bar(at + 0.2, own, 0.38, label="own classes, own prompt", color="#e69f00")
panel.set(xticks=at, xticklabels=results, ylabel="accuracy")
panel.legend()
plt.show()
for name, size in zip(results, sent):
    print(f"{name:14} {size:6,.0f} bytes up a round and owner")

# %% [markdown]
# Only the shared prompt travels. In ViT-B/32 it would be 2,048 numbers, of 151 million in the model.
