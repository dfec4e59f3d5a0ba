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
# # Scaling
#
# How time and memory of a round grow with the number of clients, on the machine that runs this.
#
# **Runtime:** any; under two minutes on two CPU cores. A GPU shows other curves, and more so with larger chunks.

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
# ## More clients
#
# Every client holds 32 series and takes two local steps on a small model. All of them take part in each round: twice
# as many clients are twice the work. What should stay flat is the time *of one client*, and the memory that training
# takes.

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import mmfl_jax as mm

folder = Path(tempfile.mkdtemp())


def federation_of(clients):
    """Return a federation of clients with 32 samples each."""
    rng = np.random.default_rng(0)
    count = 32 * clients + 64
    label = np.arange(count) % 4
    series = label[:, None, None] / 2 + rng.normal(size=(count, 12, 4))
    split = np.where(np.arange(count) < 32 * clients, "train", "test")
    path = folder / f"{clients}.npz"
    np.savez(path, label=label, x=series.astype(np.float32), owner=np.arange(count) % clients, split=split)
    return mm.Federation.split(mm.archives.open(f"arrays:{path}"), "by:owner", test_split="official")


def measure(clients, **options):
    """Return the seconds of the fastest of five rounds, which other programs disturb least, and megabytes."""
    study = mm.Study.of(method="mf", encoder="mlp", width=32, batch_size=16, devices=1, **options)
    simulation = mm.Simulation(study, federation_of(clients))
    simulation.run_round()  # compiles
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        simulation.run_round()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), simulation.cost()["peak_memory_bytes"] / 1e6


counts = (8, 32, 128, 512, 2048)
measured = {clients: measure(clients) for clients in counts}
for clients, (seconds, megabytes) in measured.items():
    each = seconds / clients * 1e6
    print(f"{clients:5} clients: {seconds * 1e3:7.1f} ms a round, {each:6.0f} µs a client, {megabytes:.1f} MB")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.loglog(counts, [seconds / clients * 1e6 for clients, (seconds, _) in measured.items()], "o-", color="#0072b2")
left.set(title="Time of one client in a round", xlabel="clients", ylabel="µs")
right.loglog(counts, [megabytes for _, megabytes in measured.values()], "o-", color="#e69f00")
right.loglog(counts, [clients * 32 * 12 * 4 * 4 / 1e6 for clients in counts], "--", color="#777777", label="samples")
right.legend()
right.set(title="Peak memory of the compiled round", xlabel="clients", ylabel="MB")
for panel in (left, right):
    panel.grid(alpha=0.3)
    panel.set_ylim(bottom=panel.get_ylim()[0] / 3, top=panel.get_ylim()[1] * 3)
plt.show()

# %% [markdown]
# Memory is that of the samples that lie on the device and of one chunk in training, whatever the number of clients;
# `stream_mb` bounds the samples too. On a machine with other work, times jump; run the cell again.
#
# ## Chunks
#
# A chunk is how many clients train side by side. More of them need more memory; on a GPU they are faster, on a CPU a
# few are enough.

# %%
for chunk in (1, 4, 16):
    seconds, megabytes = measure(512, chunk_size=chunk)
    print(f"chunk {chunk:2}: {seconds * 1e3:6.1f} ms a round, {megabytes:.1f} MB")

# %% [markdown]
# ## Cohorts
#
# With `participation` only some take part: a round's time depends on those, not on who is registered.

# %%
for registered in (512, 2048):
    seconds, _ = measure(registered, participation="64")
    print(f"64 of {registered:4} clients: {seconds * 1e3:6.1f} ms a round")

# %% [markdown]
# ## A plan
#
# `mmfl-jax plan` says what a round will need before you pay for it: here by timing short rounds, and for a TPU pod
# that is not here by compiling for it, where the extra `mmfl_jax[tpu]` is installed (Linux, x86).

# %%
from IPython.display import Image, display

study_file = folder / "planned.py"
study_file.write_text(
    "from mmfl_jax import Study\n"
    f"study = Study.of(archive='arrays:{folder}/512.npz', partition='by:owner', test_split='official', method='mf',\n"
    "                 encoder='mlp', width=32, batch_size=16)\n"
)
pod = importlib.util.find_spec("libtpu") is not None
topology = ["--topology", "v5e:2x2,v5e:4x4"] if pod else []
if not pod:
    print("no libtpu here: the plan is for this machine; pip install 'mmfl_jax[tpu]' plans for TPU pods too")
command = [sys.executable, "-m", "mmfl_jax", "plan", str(study_file), *topology, "--figure", str(folder / "plan.png")]
told = subprocess.run(command, capture_output=True, text=True)
print(told.stdout or told.stderr)
if told.returncode == 0:
    display(Image(folder / "plan.png", width=800))
