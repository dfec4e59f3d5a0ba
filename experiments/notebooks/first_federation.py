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
# # The first federation
#
# Ten countries hold satellite images of one sensor each, radar or optical, and show them to nobody. Together they
# train one model for both sensors. The images are a synthetic twin of BigEarthNet-MM, made on the fly: no download.
#
# **Runtime:** any; under 90 seconds on two CPU cores, a GPU is used where there is one.

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
# ## A federation in ten lines
#
# A *study* holds all options. `mf+fw+mim` is an encoder for each sensor and a shared head (MF), whitened features
# (FW), and a term of the loss that draws the sensors' features together (MIM).

# %%
import tempfile

from IPython.display import Image, display

import mmfl_jax as mm

study = mm.Study.of(
    archive="twin",
    samples=2000,
    image_size=24,
    partition="by:country",
    method="mf+fw+mim",
    fusion="sum",
    mim_weight=0.02,
    rounds=10,
    batch_size=16,
    client_learning_rate=3e-3,
)
run_dir = tempfile.mkdtemp()
summary = mm.Simulation(study).run(run_dir)
display(Image(f"{run_dir}/figures/scores.png", width=800))

# %% [markdown]
# The same global model was scored with radar alone (`s1`), optical images alone (`s2`) and both, on test images that
# no country holds. The dashed line always gives the most frequent labels. With so few images and rounds it is a start
# only; `mmfl-jax run quickstart` is longer.
#
# ## Who holds what
#
# Countries differ in size and in what grows there: that is what makes federated learning harder than pooled training.

# %%
display(Image(f"{run_dir}/figures/clients.png", width=800))

# %% [markdown]
# ## What it cost
#
# What travels between countries and the server is counted, and so are seconds and floating-point operations.

# %%
print(f"{summary['communication']['total_bytes'] / 1e6:.0f} MB travelled in {summary['rounds']} rounds")
cost = summary["cost"]
print(f"{cost['seconds_per_round']:.1f} s a round, after {cost['compile_seconds']:.0f} s of compilation")

# %% [markdown]
# The whole report is one page, `report.html` in the run directory. Next: change `algorithm="fedavgm"`,
# `method="unified"`, or `partition="dirichlet:0.3"`, and compare.
