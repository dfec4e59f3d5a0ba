"""Run fluke's own SCAFFOLD on ``problem.npz`` and write ``fluke_scaffold.npz``: the parameters after each round.

    python3.11 -m venv ENV
    ENV/bin/python -m pip install fluke-fl==0.8.1 torch==2.13.0 torchvision==0.28.0
    ENV/bin/python fluke_scaffold.py

Written with those, numpy 2.4.6 and Python 3.11, on a CPU. (fluke imports torchvision, which fails beside a torch built
for CPUs alone if it is not so built itself.) The algorithm is ``fluke.algorithms.scaffold``, run by fluke's own loop,
channel and clients; of this script are only the model, the data and the copies taken after each round. What it computes
is algorithm 1 of Karimireddy et al., 2020, with option II:

- All 6 clients take part in every round. A client takes ``steps`` steps of plain SGD on the gradient of all its samples
  plus c - c_i: one batch an epoch, ``steps`` epochs. Controls begin at zero.
- Option II: c_i becomes c_i - c + (x - y_i) / (steps * learning_rate), x being what the client received.
- The server's parameters become the mean of the clients' parameters, **uniform** (``weighted=False``; fluke's default,
  ``True``, weights by samples), with ``global_step`` 1. The option is not the paper's global step size: where it
  is not 1, weights are multiplied by it and no longer sum to 1, so the parameters themselves are scaled.
- c grows by the sum of the clients' changes of c_i over the number of all clients: always uniform.

Arrays, a row for each of the 5 rounds, float32: ``kernel`` [5, 5, 3] and ``bias`` [5, 3]; ``server/kernel`` and
``server/bias``, the control c; ``clients/kernel`` [5, 6, 5, 3] and ``clients/bias`` [5, 6, 3], the controls c_i.

pfl-research 0.6.0 has SCAFFOLD too and was tried (option II): its c_i takes y_i - x, the opposite sign, and its steps
the same + c - c_i, so from the second round on it computes something else than the paper.
"""

import pathlib

import numpy as np
import torch
from fluke import DDict, FlukeENV
from fluke.algorithms.scaffold import SCAFFOLD
from fluke.data import FastDataLoader
from fluke.utils import FederationObserver

HERE = pathlib.Path(__file__).parent


class Splitter:
    """Give each client its own samples, as one batch."""

    def __init__(self, problem: dict):
        ends = np.cumsum(problem["sizes"])[:-1]
        self.parts = zip(np.split(problem["x"], ends), np.split(problem["y"], ends))

    def assign(self, clients: int, batch_size: int) -> tuple:
        """Return the clients' training and test data, and the server's test data: of the last two, none."""
        loaders = [
            FastDataLoader(torch.tensor(x), torch.tensor(y).long(), num_labels=3, batch_size=batch_size)
            for x, y in self.parts
        ]
        return (loaders, [None] * clients), None


class Record(FederationObserver):
    """Copy the parameters and controls at the end of each round."""

    def __init__(self):
        self.federation: SCAFFOLD | None = None
        self.found: dict[str, list] = {}

    def end_round(self, round: int) -> None:
        """Copy what the server and the clients hold."""
        server, clients = self.federation.server, self.federation.clients
        for prefix, held in (("", server.model.state_dict()), ("server/", server.control)):
            for name, value in arrays(held).items():
                self.found.setdefault(prefix + name, []).append(value)
        controls = [arrays(client.control) for client in clients]
        for name in controls[0]:
            self.found.setdefault(f"clients/{name}", []).append(np.stack([c[name] for c in controls]))


def arrays(held: dict) -> dict[str, np.ndarray]:
    """Return the arrays of a linear layer by the problem's names, the kernel [features, classes]."""
    return {"kernel": held["weight"].numpy().T.copy(), "bias": held["bias"].numpy().copy()}


def main() -> None:
    """Run the rounds and write the parameters beside this script."""
    FlukeENV().set_eval_cfg(pre_fit=False, post_fit=False, server=False, locals=False)
    problem = dict(np.load(HERE / "problem.npz"))
    features, classes = problem["kernel"].shape
    model = torch.nn.Linear(features, classes)
    model.load_state_dict({"weight": torch.tensor(problem["kernel"].T), "bias": torch.tensor(problem["bias"])})
    options = {
        "model": model,
        "client": {
            "batch_size": 0,  # all samples
            "local_epochs": int(problem["steps"]),
            "loss": "CrossEntropyLoss",
            "optimizer": {"name": "SGD", "lr": float(problem["learning_rate"])},
            "scheduler": {"name": "StepLR", "step_size": 1, "gamma": 1.0},
        },
        "server": {"weighted": False, "global_step": 1.0},
    }
    record = Record()
    record.federation = SCAFFOLD(len(problem["sizes"]), Splitter(problem), DDict(options))
    record.federation.set_callbacks(record)
    record.federation.run(n_rounds=int(problem["rounds"]), eligible_perc=1.0)
    np.savez(HERE / "fluke_scaffold.npz", **{name: np.stack(values) for name, values in record.found.items()})


if __name__ == "__main__":
    main()
