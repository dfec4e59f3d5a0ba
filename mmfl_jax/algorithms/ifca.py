"""IFCA: several global models, each client trains the one that fits it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params, difference
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.algorithms.transforms import FLOAT_BYTES, Transform, float_bytes
from mmfl_jax.errors import UserError


def ifca(clusters: int = 2, deviation: float = 0.1) -> Algorithm:
    """IFCA: iterative clustering, a model a cluster, averaged over the clients that chose it.

    A client receives all models, trains the one with the lowest loss on its first batch, and says which. The model that
    the server uses itself is that of the most clients.

    Travels: ``clusters`` models down, one up. Use it when clients fall into few kinds that contradict each other.

    Args:
      clusters: how many models.
      deviation: of the first models from the initial one, in standard deviations of each array.

    References:
      Ghosh et al., "An Efficient Framework for Clustered Federated Learning", NeurIPS 2020.
    """

    def init(params: Params) -> Params:
        def apart(i: int, p: jax.Array) -> jax.Array:
            noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (clusters, *p.shape))
            return p + deviation * p.std() * noise.at[0].set(0) if p.size else jnp.zeros((clusters, *p.shape))

        return {n: apart(i, params[n]) for i, n in enumerate(sorted(params))}

    model = lambda models, k: {n: m[k] for n, m in models.items()}
    chosen = lambda local: jnp.argmin(jnp.stack([local.loss(model(_own(local), k)) for k in range(clusters)]))

    def message(params: Params, local: Local) -> tuple[dict, dict]:
        k = local.carry["cluster"]
        mine = jax.nn.one_hot(k, clusters)
        moved = difference(params, model(_own(local), k))
        placed = {n: mine.reshape(-1, *[1] * d.ndim) * d for n, d in moved.items()}
        return {"change": placed, "share": dict.fromkeys(moved, mine)}, {"cluster": k}

    def update(aggregate: Aggregate, models: Params, params: Params) -> tuple[Params, Params]:
        value = aggregate.value
        new = {}
        for n, m in models.items():
            share = value["share"][n].reshape(-1, *[1] * params[n].ndim)
            new[n] = m + aggregate.rate * value["change"][n] / jnp.where(share > 0, share, 1)
        shares = sum(value["share"].values(), jnp.zeros(clusters))
        served = model(new, jnp.argmax(shares))
        heard = shares.sum() > 0  # else the server has no reason to use another model
        return {n: jnp.where(heard, served[n], p) for n, p in params.items()}, new

    def check(setting: Setting) -> None:
        if not 2 <= clusters <= setting.clients:
            raise UserError(f"--algorithm ifca: clusters must be 2 to {setting.clients}, the clients, not {clusters}")

    return Algorithm(
        init=init,
        memory=lambda params: {"cluster": jnp.int32(0)},
        broadcast=lambda models: models,
        carry=lambda local: {"cluster": chosen(local)},
        start=lambda local: model(_own(local), local.carry["cluster"]),
        message=message,
        update=update,
        # Zeros of the models that were not trained do not travel; the number of the one that was does.
        transform=Transform(bytes=lambda message: float_bytes(message["change"]) // clusters + FLOAT_BYTES),
        personal=lambda params, memory, broadcast: {n: broadcast[n][memory["cluster"]] for n in params},
        received=False,
        counts=("share",),
        indivisible="a message of ifca has a place for the change of each cluster's model",
        keeps_unseen=False,
        check=check,
    )


def _own(local: Local) -> Params:
    return {n: local.broadcast[n] for n in local.received}
