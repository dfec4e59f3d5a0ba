"""What FedAvgM and the adaptive algorithms share: a server's optimizer steps along the mean change."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Params


def server_optimizer(optimizer: optax.GradientTransformation) -> Algorithm:
    """Return FedOpt: the server's ``optimizer`` steps along the mean change (Reddi et al., ICLR 2021, algorithm 1)."""

    def update(aggregate: Aggregate, state: Any, params: Params) -> tuple[Params, Any]:
        gradient = jax.tree.map(jnp.negative, aggregate.value["change"])
        updates, state = optimizer.update(gradient, state, params)
        return {n: p + aggregate.rate * updates[n] for n, p in params.items()}, state

    return Algorithm(init=optimizer.init, update=update)


def scale_by_moments(beta1: float, beta2: float, tau: float, second: Any) -> optax.GradientTransformation:
    """Return ``m / (sqrt(v) + tau)`` without bias correction, ``v`` from ``tau^2`` (Reddi et al., algorithm 2).

    Args:
      beta1: of the first moment ``m``.
      beta2: of the second moment ``v``.
      tau: how adaptive it is.
      second: ``(v, square of the gradient, beta2) -> v``.
    """

    def init(params: Params) -> tuple[Params, Params]:
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda p: jnp.full_like(p, tau**2), params)

    def update(gradient: Params, state: tuple[Params, Params], params: Any = None) -> tuple[Params, Any]:
        m = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, state[0], gradient)
        v = jax.tree.map(lambda v, g: second(v, g * g, beta2), state[1], gradient)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + tau), m, v), (m, v)

    return optax.GradientTransformation(init, update)
