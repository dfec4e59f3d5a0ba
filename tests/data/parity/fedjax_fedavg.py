"""Run FedJAX's own FedAvg on ``problem.npz`` and write ``fedjax_fedavg.npz``: the parameters after each round.

    python3.11 -m venv ENV
    ENV/bin/python -m pip install fedjax==0.0.17 jax==0.5.3 jaxlib==0.5.3
    ENV/bin/python fedjax_fedavg.py

Written with those, numpy 2.4.6 and Python 3.11, on a CPU. The algorithm is ``fedjax.algorithms.fed_avg``; only the loss
and the data are this script's. What it computes:

- All 6 clients take part in every round; each starts at the server's parameters and takes ``steps`` steps of plain SGD.
- FedJAX's batches have one size for all clients: 12. A smaller client's samples are repeated to fill it, 12 / size
  times each, so a batch's mean gradient is that of the whole client.
- The server adds the mean of the clients' changes, weighted by their number of samples: SGD with rate 1.

Arrays: ``kernel`` [5 rounds, 5, 3] and ``bias`` [5 rounds, 3] float32.
"""

import pathlib

import fedjax
import jax
import jax.numpy as jnp
import numpy as np

HERE = pathlib.Path(__file__).parent
BATCH = 12


def loss(params: dict, batch: dict, rng: jax.Array) -> jax.Array:
    """Return the mean cross-entropy of a batch."""
    log_p = jax.nn.log_softmax(batch["x"] @ params["kernel"] + params["bias"])
    return -jnp.take_along_axis(log_p, batch["y"][:, None], axis=1).mean()


def main() -> None:
    """Run the rounds and write the parameters beside this script."""
    problem = np.load(HERE / "problem.npz")
    algorithm = fedjax.algorithms.fed_avg.federated_averaging(
        jax.grad(loss),
        client_optimizer=fedjax.optimizers.sgd(float(problem["learning_rate"])),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(
            batch_size=BATCH, num_epochs=None, num_steps=int(problem["steps"]), seed=0
        ),
    )
    ends = np.cumsum(problem["sizes"])[:-1]
    parts = zip(np.split(problem["x"], ends), np.split(problem["y"], ends))
    clients = [
        (b"%d" % i, fedjax.ClientDataset({"x": x, "y": y}), jax.random.PRNGKey(i)) for i, (x, y) in enumerate(parts)
    ]
    state = algorithm.init({"kernel": jnp.asarray(problem["kernel"]), "bias": jnp.asarray(problem["bias"])})
    found: dict[str, list] = {"kernel": [], "bias": []}
    for _ in range(int(problem["rounds"])):
        state, _ = algorithm.apply(state, clients)
        for name, values in found.items():
            values.append(np.asarray(state.params[name]))
    np.savez(HERE / "fedjax_fedavg.npz", **{name: np.stack(values) for name, values in found.items()})


if __name__ == "__main__":
    main()
