"""FedDC: clients learn their drift, and the server takes it off what it averages."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, difference, square_norm, zeros
from mmfl_jax.algorithms.checks import plain_sgd


def feddc(alpha: float = 0.01) -> Algorithm:
    """FedDC: local drift decoupling and correction.

    ``F_i(w) + alpha/2 ||w + h_i - x||^2 + <w, c - c_i>`` with SCAFFOLD's controls ``c_i``, ``c`` (option II); then
    ``h_i <- h_i + (w - x)``, and on the server ``x <- mean_S w + H`` with the mean ``H`` of all clients' drifts. This
    is the authors' code; the paper's wording averages ``w + h_i`` over the cohort, which diverges where few clients
    take part.

    Travels: twice FedAvg both ways. Keeps: two models a client. Use it where SCAFFOLD is used; the drift also corrects
    what is averaged.

    Args:
      alpha: of the penalty; the paper uses 0.1, 0.01 and 0.005.

    References:
      Gao et al., "FedDC: Federated Learning with Non-IID Data via Local Drift Decoupling and Correction", CVPR 2022.
    """

    def loss(params: Params, local: Local) -> jax.Array:
        kept, control = local.memory, local.broadcast["control"]
        apart = {n: params[n] + kept["drift"][n] - local.received[n] for n in params}
        tilt = sum((jnp.vdot(control[n] - kept["control"][n], params[n]) for n in params), jnp.float32(0))
        return local.loss(params) + alpha / 2 * square_norm(apart) + tilt

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        moved = difference(params, local.received)
        step = {n: local.broadcast["control"][n] + moved[n] / (local.steps * local.rate) for n in params}
        kept = {
            "drift": {n: local.memory["drift"][n] + moved[n] for n in params},
            "control": {n: local.memory["control"][n] - step[n] for n in params},
        }
        return {"change": moved, "control": {n: -s for n, s in step.items()}}, kept

    def update(aggregate: Aggregate, state: dict, params: Params) -> tuple[Params, dict]:
        mean, share = aggregate.value["change"], aggregate.share
        drift = {n: h + share[n] * mean[n] for n, h in state["drift"].items()}
        control = {n: c + share[n] * aggregate.value["control"][n] for n, c in state["control"].items()}
        new = {n: p + aggregate.rate * (mean[n] + drift[n]) for n, p in params.items()}
        return new, {"drift": drift, "control": control}

    both = lambda params: {"drift": zeros(params), "control": zeros(params)}
    return Algorithm(
        init=both,
        memory=both,
        broadcast=lambda state: {"control": state["control"]},
        loss=loss,
        message=message,
        update=update,
        check=plain_sgd("FedDC"),
    )
