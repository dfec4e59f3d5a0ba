"""Federated methods on real tiles of Sentinel-1 and Sentinel-2, beside a random forest per pixel in one place.

Command: python experiments/real_tiles.py DIR OUT [--seeds 3] [--rounds 200]; the same command goes on after a stop
DIR holds tiles as ``tiles:DIR`` reads them (S1RTC, S2L2A, LULC). Each tile is cut into 16 blocks, an owner each, with
one sensor; four blocks of each tile are for test, and no owner has them. The forest sees all training pixels.
Time: 2 minutes a run on 2 cores of a shared Intel Xeon, JAX 0.10.2, up to 6 beside other work; a minute a forest
Result (mean IoU / macro-F1 of s1, s2 and both, mean and deviation over 3 seeds):
  random forest .205 ±.000 / .311 ±.000, .613 ±.001 / .734 ±.001, .626 ±.003 / .747 ±.003
  unified .381 ±.024 / .478 ±.025, .504 ±.073 / .603 ±.070, .436 ±.076 / .544 ±.078
  MF .373 ±.010 / .469 ±.021, .536 ±.035 / .645 ±.040, .518 ±.025 / .625 ±.031
  MF+FW+MIM .362 ±.067 / .465 ±.071, .611 ±.012 / .724 ±.011, .571 ±.032 / .679 ±.043
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

import mmfl_jax as mm
from mmfl_jax.tasks.metrics import confusion_metrics

METHODS = ("unified", "mf", "mf+fw+mim")
SIDE = 56
SENSORS = ("s1rtc", "s2l2a")


def opened(folder: str) -> mm.archives.Archive:
    """Return the tiles' blocks with both sensors."""
    return mm.archives.open(f"tiles:{folder}", modalities=SENSORS, image_size=SIDE)


def test_blocks(archive: mm.archives.Archive) -> np.ndarray:
    """Return [samples] whether a block is for test: four of a tile's sixteen, one a row and a column."""
    places = np.array([name.split("_") for name in archive.attribute("block").tolist()], int)
    tile = np.unique(archive.attribute("tile"), return_inverse=True)[1]
    return (places[:, 0] + 2 * places[:, 1] + tile) % 4 == 0


def federation(archive: mm.archives.Archive, seed: int) -> mm.Federation:
    """Return an owner a training block, each with one of the sensors."""
    tested = test_blocks(archive)
    train = np.random.default_rng(seed).permutation(np.flatnonzero(~tested))
    clients = [(f"block {i}", (SENSORS[n % len(SENSORS)],), np.array([i])) for n, i in enumerate(train.tolist())]
    return mm.Federation.of(archive, clients, np.flatnonzero(tested))


def study(method: str, seed: int, rounds: int) -> mm.Study:
    """Return the study of a method; all have the same options."""
    return mm.Study.of(
        name=method.replace("+", "-"),
        method=method,
        encoder="resnet8",
        # An owner has one block. What is normalised by its own moments does not tell snow from water any more.
        norm="none",
        whitening_moments="pooled",
        # Owners differ much: one step a round and Adam on the server is nearly training in one place.
        algorithm="fedadam:rate=3e-3:tau=1e-6",
        server_schedule="cosine",
        client_optimizer="sgd",
        client_learning_rate=1.0,
        local_steps=1,
        batch_size=2,
        class_weights="root",
        mim_weight=0.02,
        crop=32,
        flips=True,
        rounds=rounds,
        evaluate_every=rounds,
        seed=seed,
    )


def forest(archive: mm.archives.Archive, seed: int) -> dict[str, dict]:
    """Return the scores of a random forest per pixel, by the sensors that it sees."""
    from sklearn.ensemble import RandomForestClassifier

    tested, labels = test_blocks(archive), archive.read_labels(np.arange(len(archive)))
    found, images = {}, {m: archive.read(m, np.arange(len(archive))) for m in SENSORS}
    for seen in ((SENSORS[0],), (SENSORS[1],), SENSORS):
        x = np.nan_to_num(np.concatenate([images[m] for m in seen], axis=-1))
        known = labels != 255
        train, test = known & ~tested[:, None, None], known & tested[:, None, None]
        model = RandomForestClassifier(100, min_samples_leaf=5, n_jobs=-1, random_state=seed).fit(
            x[train], labels[train]
        )
        classes = len(archive.class_names)
        pairs = labels[test].astype(int) * classes + model.predict(x[test])
        confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        found["+".join(seen)] = confusion_metrics(confusion)
    return found


def main() -> None:
    """Print mean IoU and macro-F1, mean and deviation over seeds."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder")
    options.add_argument("output", type=pathlib.Path)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--rounds", type=int, default=200)
    args = options.parse_args()
    archive = opened(args.folder)
    found: dict[str, list[dict[str, dict]]] = {
        "random forest, one place": [forest(archive, s) for s in range(args.seeds)]
    }
    for method in METHODS:
        for seed in range(args.seeds):
            run_dir = args.output / f"{method.replace('+', '-')}-{seed}"
            simulation = mm.Simulation(study(method, seed, args.rounds), federation(archive, seed))
            found.setdefault(method, []).append(simulation.run(run_dir, resume=run_dir.exists())["evaluation"])
    for name, runs in found.items():
        cells = []
        for seen in runs[0]:
            for score in ("miou", "f1_macro"):
                values = [run[seen][score] for run in runs]
                cells.append(f"{seen} {score} {np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        print(f"{name}: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
