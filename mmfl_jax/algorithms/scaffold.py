"""SCAFFOLD: control variates undo the clients' drift."""

from __future__ import annotations

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, add_change, difference, zeros
from mmfl_jax.algorithms.checks import plain_sgd


def scaffold() -> Algorithm:
    """SCAFFOLD: every local step is corrected by the difference of the server's and the client's own gradient.

    ``w <- w - eta (g - c_i + c)``; then ``c_i+ = c_i - c + (x - w) / (K eta)`` (option II), and on the server
    ``x <- x + mean_S (w - x)``, ``c <- c + |S|/N mean_S (c_i+ - c_i)``, both means weighted as the study weighs
    clients.

    Travels: twice FedAvg both ways. Keeps: one model a client. Use it when clients differ and take part often; with
    rare clients ``c_i`` is stale.

    References:
      Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020.
    """

    def gradient(g: Params, params: Params, local: Local) -> Params:
        return {n: g[n] - local.memory[n] + local.broadcast[n] for n in g}

    def message(params: Params, local: Local) -> tuple[dict, Params]:
        moved = difference(params, local.received)
        drift = {n: local.broadcast[n] + moved[n] / (local.steps * local.rate) for n in params}
        control = {n: local.memory[n] - drift[n] for n in params}
        return {"change": moved, "control": {n: -drift[n] for n in params}}, control

    def update(aggregate: Aggregate, control: Params, params: Params) -> tuple[Params, Params]:
        control = {n: c + aggregate.share[n] * aggregate.value["control"][n] for n, c in control.items()}
        return add_change(aggregate, control, params)

    return Algorithm(
        init=zeros,
        memory=zeros,
        broadcast=lambda control: control,
        gradient=gradient,
        message=message,
        update=update,
        check=plain_sgd("SCAFFOLD"),
    )
