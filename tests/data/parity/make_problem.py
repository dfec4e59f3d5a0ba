"""Write ``problem.npz``: the small federation on which the engine is compared with other public implementations.

    python -m pip install numpy
    python make_problem.py

A softmax regression with bias, 6 clients, 5 features, 3 classes. The clients differ in size, in where their features
lie and in which classes they see, so that FedAvg, its unweighted form and SCAFFOLD end far apart. Sizes divide 12: an
implementation that repeats a client's samples to fill a batch of 12 still computes the gradient of the whole client.

Arrays: ``x`` [39, 5] float32 and ``y`` [39] int32, clients one after the other; ``sizes`` [6]; initial ``kernel``
[5, 3] and ``bias`` [3] float32; ``steps`` of a client in a round, ``rounds``, and ``learning_rate``.
"""

import pathlib

import numpy as np

SIZES = (2, 12, 3, 6, 4, 12)
FEATURES, CLASSES, STEPS, ROUNDS, RATE = 5, 3, 4, 5, 0.1


def main() -> None:
    """Draw the problem from a fixed seed and write it beside this script."""
    rng = np.random.default_rng(20)
    truth = rng.normal(0, 1, (FEATURES, CLASSES))
    x, y = [], []
    for size in SIZES:
        features = rng.normal(0, 1, (size, FEATURES)) + rng.normal(0, 1, FEATURES)
        scores = features @ truth + rng.normal(0, 1.5, CLASSES) + rng.gumbel(size=(size, CLASSES))
        x.append(features)
        y.append(scores.argmax(axis=1))
    np.savez(
        pathlib.Path(__file__).with_name("problem.npz"),
        x=np.concatenate(x).astype(np.float32),
        y=np.concatenate(y).astype(np.int32),
        sizes=np.array(SIZES, np.int32),
        kernel=rng.normal(0, 0.3, (FEATURES, CLASSES)).astype(np.float32),
        bias=rng.normal(0, 0.3, CLASSES).astype(np.float32),
        steps=np.int32(STEPS),
        rounds=np.int32(ROUNDS),
        learning_rate=np.float32(RATE),
    )


if __name__ == "__main__":
    main()
