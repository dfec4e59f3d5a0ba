"""Land cover on real tiles of Sentinel-1 and Sentinel-2: 48 owners of a block with one sensor each.

Command: mmfl-jax sweep real_tiles --archive tiles:DIR --vary method=mf,mf+fw+mim,unified --seeds 8 --run-dir OUT
Beside it, a random forest a pixel that sees all training pixels pooled: python experiments/real_tiles.py DIR
DIR holds tiles as ``tiles:DIR`` reads them (S1RTC, S2L2A, LULC); each is cut into blocks, a quarter of them for test.
Result: experiments/RESULTS.md
"""

from __future__ import annotations

import argparse

import numpy as np

import mmfl_jax as mm
from mmfl_jax.errors import told_in_one_line
from mmfl_jax.study.build import open_archive, open_federation
from mmfl_jax.tasks.metrics import confusion_metrics

study = mm.Study.of(
    name="real_tiles",
    archive="tiles:tiles",
    modalities="s1rtc,s2l2a",
    image_size=56,
    partition="by:tile+block",
    test_split="0.25",
    method="mf+fw+mim",
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
    rounds=80,
    evaluate_every=80,
    checkpoint_every=80,
)


def forest(federation: mm.Federation, seed: int) -> dict[str, dict]:
    """Return the scores of a random forest per pixel, by the sensors that it sees."""
    from sklearn.ensemble import RandomForestClassifier

    archive, classes = federation.archive, len(federation.archive.class_names)
    sides = [federation.train, federation.test]
    labels = [archive.read_labels(side) for side in sides]
    images = {m: [np.nan_to_num(archive.read(m, side)) for side in sides] for m in archive.modalities}
    sensors, found = tuple(images), {}
    for seen in (*((m,) for m in sensors), sensors):
        known = [
            (np.concatenate([images[m][i] for m in seen], axis=-1)[y != 255], y[y != 255]) for i, y in enumerate(labels)
        ]
        model = RandomForestClassifier(100, min_samples_leaf=5, n_jobs=-1, random_state=seed).fit(*known[0])
        pairs = known[1][1].astype(int) * classes + model.predict(known[1][0])
        found["+".join(seen)] = confusion_metrics(np.bincount(pairs, minlength=classes**2).reshape(classes, classes))
    return found


def main() -> None:
    """Print the forest's mean IoU and macro-F1, mean and deviation over seeds."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder")
    options.add_argument("--seeds", type=int, default=3)
    args = options.parse_args()
    here = study.replace(archive=f"tiles:{args.folder}")
    archive = open_archive(here)
    runs = [forest(open_federation(here.replace(seed=seed), archive), seed) for seed in range(args.seeds)]
    for seen in runs[0]:
        values = np.array([[run[seen][score] for score in ("miou", "f1_macro")] for run in runs])
        told = zip(("mean IoU", "macro-F1"), values.mean(axis=0), values.std(axis=0, ddof=1))
        print(f"{seen}: {', '.join(f'{name} {mean:.3f} ± {std:.3f}' for name, mean, std in told)}", flush=True)


if __name__ == "__main__":
    with told_in_one_line():
        main()
