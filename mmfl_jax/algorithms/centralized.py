"""The upper bound: all samples pooled."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Params


def centralized(optimizer: optax.GradientTransformation | None = None) -> Algorithm:
    """Bound: no federation; one trainer draws its batches from everybody's samples.

    All samples of a modality set are pooled, and every step follows the mean gradient of a batch of each,
    weighted by their samples, with the clients' optimizer. A round is as many steps as an epoch has.

    Travels: images, which the owners may not share. Use it to know what federation costs.

    Args:
      optimizer: the clients' optimizer, with learning rate 1.

    References:
      None: a bound, not a federated algorithm.
    """
    chosen = optimizer or optax.sgd(1.0)

    def update(aggregate: Aggregate, state: Any, params: Params) -> tuple[Params, Any]:
        # One step of SGD at rate 1: the mean change is the negative gradient.
        gradient = jax.tree.map(jnp.negative, aggregate.value["change"])
        updates, state = chosen.update(gradient, state, params)
        return {n: p + aggregate.rate * updates[n] for n, p in params.items()}, state

    return Algorithm(init=chosen.init, update=update, pooled=True)
