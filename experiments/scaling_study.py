"""How a federation scales: 100 to a million registered clients with memory, and devices with as many clients each.

Command: python experiments/scaling_study.py OUT [--clients 100 ...] [--devices 1 2 4 8]; the same command goes on
after a stop
Every client holds two samples of one sensor's series and keeps a SCAFFOLD control from round to round. Registered
clients: 64 of them take part in a round, on one device; what they keep lies on the device, and once on the host.
Devices: 256 clients a device take part, of 1,000 a device, drawn by strata. The devices of a CPU share its cores:
beyond them time in proportion is the ideal, and efficiency is told against that.
Time: 3 minutes on 2 cores of a shared Intel Xeon, JAX 0.10.2
Result (100 to 1,000,000 clients): 8.9, 7.8, 14.9, 8.7, 14.6 ms a round with memory on the device, up to 8.8 GiB in all;
11.2, 10.0, 15.0, 12.9, 131 ms and up to 1.7 GiB with memory on the host, whose disk answers the last; devices 1 to 8:
29, 30, 43, 108 ms (ideal 29, 29, 58, 116), beside other work
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
from typing import Any

import jax
import numpy as np

import mmfl_jax as mm
from mmfl_jax.federation.partition import Parts

CLIENTS, DEVICES = (100, 1_000, 10_000, 100_000, 1_000_000), (1, 2, 4, 8)
COHORT, COHORT_A_DEVICE, CLIENTS_A_DEVICE = 64, 256, 1_000
SHAPES = {"s1": (6, 2), "s2": (6, 4)}
CLASSES, TEST, SAMPLES = 8, 2_000, 2


class Series(mm.archives.Archive):
    """Hold random series whose classes have means of their own in both sensors."""

    def __init__(self, samples: int):
        rng = np.random.default_rng(0)
        self.name, self.task, self.notes, self.splits, self.attributes = "series", "multiclass", {}, None, {}
        self.class_names = tuple(f"class {i}" for i in range(CLASSES))
        self.labels = rng.integers(0, CLASSES, samples).astype(np.int32)
        self.modalities, self.series = {}, {}
        for name, shape in SHAPES.items():
            means = rng.normal(size=(CLASSES, *shape)).astype(np.float32)
            self.series[name] = rng.standard_normal((samples, *shape), np.float32) * 2 + means[self.labels]
            channels = tuple(map(str, range(shape[-1])))
            zero, one = np.zeros(shape[-1], np.float32), np.ones(shape[-1], np.float32)
            self.modalities[name] = mm.archives.ModalitySpec(shape, channels, zero, one)

    def read(self, modality: str, indices: np.ndarray) -> np.ndarray:
        """Return the series of samples."""
        return self.series[modality][self.checked(modality, indices)]


def federation(clients: int) -> mm.Federation:
    """Return clients of two samples each, of the sensors by turns."""
    train = np.arange(clients * SAMPLES)
    names = np.array([f"client {i}" for i in range(clients)])
    parts = Parts(names, train, np.arange(clients + 1) * SAMPLES)
    test = np.arange(len(train), len(train) + TEST)
    return mm.Federation.stack(Series(len(train) + TEST), parts, [("s1",), ("s2",)], np.arange(clients) % 2, test)


def measured(clients: int, devices: int, participation: str, memory: str, rounds: int) -> dict[str, Any]:
    """Return what a federation takes, and what it has learned, in this process."""
    study = mm.Study.of(
        method="mf",
        encoder="mlp",
        width=32,
        algorithm="scaffold",
        client_optimizer="sgd",
        client_learning_rate=0.1,
        local_steps=4,
        batch_size=2,
        rounds=rounds,
        devices=devices,
        devices_per_client=1,
        participation=participation,
        client_memory=memory,
    )
    simulation = mm.Simulation(study, federation(clients))
    simulation.run_round()
    seconds = [simulation.run_round()["seconds"] for _ in range(rounds - 1)]
    scores = simulation.evaluate()
    return {
        "seconds_per_round": statistics.median(seconds),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "kept_bytes": sum(x.nbytes for x in jax.tree.leaves(simulation.state.clients)),
        "accuracy": scores["s1+s2"]["accuracy"],
    }


def settings(clients: list[int], devices: list[int]) -> list[dict[str, Any]]:
    """Return the settings of the study: what :func:`measured` is given."""
    by_clients = [
        {"clients": n, "devices": 1, "participation": str(COHORT), "memory": memory}
        for memory in ("device", "host")
        for n in clients
    ]
    by_devices = [
        {
            "clients": CLIENTS_A_DEVICE * n,
            "devices": n,
            "participation": f"stratified:{n}:{COHORT_A_DEVICE * n}",
            "memory": "device",
        }
        for n in devices
    ]
    return by_clients + by_devices


def figure(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw seconds a round and memory over registered clients, and the efficiency over devices."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    drawn, (time, memory, devices) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for where, mark in (("device", "o-"), ("host", "s--")):
        own = [row for row in rows if row["memory"] == where and row["participation"] == str(COHORT)]
        across = [row["clients"] for row in own]
        time.plot(across, [1000 * row["seconds_per_round"] for row in own], mark, label=f"memory on the {where}")
        memory.plot(across, [row["peak_bytes"] / 2**30 for row in own], mark, label=f"memory on the {where}")
    time.set(xscale="log", xlabel="registered clients", ylabel="milliseconds a round", ylim=(0, None))
    time.set_title(f"{COHORT} clients take part")
    memory.set(xscale="log", yscale="log", xlabel="registered clients", ylabel="peak memory, GiB")
    memory.set_title("The process")
    own = [row for row in rows if row["participation"].startswith("stratified")]
    cores = os.cpu_count() or 1
    ideal = [own[0]["seconds_per_round"] * max(1, row["devices"] / cores) for row in own] if own else []
    share = [100 * best / row["seconds_per_round"] for best, row in zip(ideal, own)]
    devices.bar([str(row["devices"]) for row in own], share, color="tab:green")
    devices.axhline(100, color="gray", linewidth=1)
    devices.set(xlabel=f"devices, on {cores} cores", ylabel="efficiency, %")
    devices.set_title(f"{COHORT_A_DEVICE} clients a device")
    time.legend()
    drawn.savefig(path, dpi=120)


def main() -> None:
    """Measure each setting in a process of its own, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--clients", type=int, nargs="*", default=list(CLIENTS))
    parser.add_argument("--devices", type=int, nargs="*", default=list(DEVICES))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--alone", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        jax.config.update("jax_num_cpu_devices", args.alone["devices"])
        print(json.dumps(measured(**args.alone, rounds=args.rounds)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "rows.jsonl"
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    rows = []
    for setting in settings(args.clients, args.devices):
        row = next((row for row in known if setting.items() <= row.items() and row["rounds"] == args.rounds), None)
        if row is None:
            command = [sys.executable, __file__, str(args.out), "--rounds", str(args.rounds)]
            found = subprocess.check_output([*command, "--alone", json.dumps(setting)])
            row = {**setting, "rounds": args.rounds, **json.loads(found.splitlines()[-1])}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
        rows.append(row)
    figure(rows, args.out / "scaling.png")
    print(args.out / "scaling.png")


if __name__ == "__main__":
    main()
