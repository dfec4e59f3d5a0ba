"""Hierarchical averaging: servers of their own under a global one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Aggregate, Algorithm, Local, Params
from mmfl_jax.algorithms.checks import all_of
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.algorithms.transforms import Transform, float_bytes
from mmfl_jax.errors import UserError

_KEPT = ("memory", "broadcast", "send", "transform", "reduce", "personal", "private", "pooled", "isolated", "buffer")


def hierarchical(algorithm: Algorithm, period: int = 5, servers: int | None = None) -> Algorithm:
    """Modifier: clients learn under a server of their own; every ``period`` rounds the servers' models are averaged.

    Each server takes the algorithm's step with its own clients' messages, from its own model and state. Every period
    the global server replaces all models by their mean, each weighted with what its clients reported since the last
    time: ``x <- sum_r w_r x_r / sum_r w_r``. With a period of 1 and a server that adds the mean change this is
    averaging without servers. Running moments and objectives' sums go through to the global server in every round.

    Travels: between clients and servers as before; between servers their models every period, and moments and sums
    every round (``bytes_between_servers``). Use it when links within a country are cheap and those abroad are not.

    Args:
      algorithm: of each server; one that keeps nothing on clients.
      period: rounds between two averages of the servers.
      servers: how many there are (``--servers``).

    References:
      Liu et al., "Client-Edge-Cloud Hierarchical Federated Learning", ICC 2020.
    """
    count, plain = servers or 1, Algorithm()
    if period < 1:
        raise UserError(f"--algorithm hierarchical: period must be 1 round or more, not {period}")
    if other := [name for name in _KEPT if getattr(algorithm, name) != getattr(plain, name)]:
        raise UserError(
            f"--algorithm hierarchical: servers of their own need an algorithm without {other[0]}, such as fedavg, "
            "fedprox or fedadam"
        )

    def init(params: Params) -> dict[str, Any]:
        each = lambda tree: jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x))), tree)
        return {
            "models": each(params),
            "states": each(algorithm.init(params)),
            "weight": {n: jnp.zeros(count) for n in params},
            "round": jnp.int32(0),
        }

    def message(params: Params, local: Local) -> tuple[dict, Any]:
        inner, memory = algorithm.message(params, local)
        mine = jax.nn.one_hot(local.server, count)
        place = lambda x: mine.reshape(-1, *[1] * x.ndim) * x
        return {**jax.tree.map(place, inner), "server": dict.fromkeys(params, mine)}, memory

    def update(aggregate: Aggregate, state: dict[str, Any], params: Params) -> tuple[Params, dict[str, Any]]:
        value = dict(aggregate.value)
        share = value.pop("server")
        own = {f: {n: _rows(v, jnp.where(share[n] > 0, share[n], 1)) for n, v in x.items()} for f, x in value.items()}
        step = lambda value, state, model: algorithm.update(aggregate._replace(value=value), state, model)
        models, states = jax.vmap(step)(own, state["states"], state["models"])
        models = {n: _where(share[n] > 0, m, state["models"][n]) for n, m in models.items()}
        heard = sum(share.values(), jnp.zeros(count)) > 0
        states = jax.tree.map(lambda new, old: _where(heard, new, old), states, state["states"])
        weight = {n: w + aggregate.share[n] * share[n] for n, w in state["weight"].items()}
        mean = {n: _mean(weight[n], models[n], p) for n, p in params.items()}
        due = (state["round"] + 1) % period == 0
        return mean, {
            "models": {n: jnp.where(due, mean[n], m) for n, m in models.items()},
            "states": states,
            "weight": {n: jnp.where(due, 0, w) for n, w in weight.items()},
            "round": state["round"] + 1,
        }

    def check(setting: Setting) -> None:
        if servers is None:
            raise UserError("--algorithm hierarchical: who is under which server is told by --servers, such as country")

    return algorithm._replace(
        init=init,
        message=message,
        update=update,
        send=lambda params, state, facts: {n: state["models"][n][facts.server] for n in params},
        # What is zero for other servers does not travel.
        transform=Transform(
            bytes=lambda message: float_bytes({f: v for f, v in message.items() if f != "server"}) // count
        ),
        keeps_unseen=False,
        period=period,
        servers=count,
        check=all_of(algorithm.check, check),
    )


def _rows(values: jax.Array, divisor: jax.Array) -> jax.Array:
    return values / divisor.reshape(-1, *[1] * (values.ndim - 1))


def _where(condition: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(condition.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _mean(weight: jax.Array, models: jax.Array, params: jax.Array) -> jax.Array:
    total = weight.sum()
    return jnp.where(total > 0, jnp.tensordot(weight / jnp.where(total > 0, total, 1), models, 1), params)
