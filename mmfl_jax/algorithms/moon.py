"""MOON: features of the local model are kept near the global model's."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmfl_jax.algorithms.algorithm import Algorithm, Local, Params, change
from mmfl_jax.algorithms.setting import Setting
from mmfl_jax.errors import UserError


def moon(mu: float = 1.0, temperature: float = 0.5) -> Algorithm:
    """MOON: model-contrastive learning, towards the received model's features and away from the client's own last ones.

    ``F_i(w) - mu mean log( e^{s(z, z_x)/t} / (e^{s(z, z_x)/t} + e^{s(z, z_i)/t}) )``, ``s`` the cosine, ``z`` the fused
    features by the local model, ``z_x`` by the received one, ``z_i`` by the client's model of its last round.

    Travels: as FedAvg. Keeps: one model a client; two more forward passes a step. Use it for label skew on images.

    Args:
      mu: weight of the contrast; the paper tries 0.1 to 10.
      temperature: of the contrast.

    References:
      Li, He and Song, "Model-Contrastive Federated Learning", CVPR 2021.
    """

    def loss(params: Params, local: Local) -> jax.Array:
        cosine = lambda a, b: (_unit(a) * _unit(b)).sum(axis=-1) / temperature
        fixed = lambda p: jax.lax.stop_gradient(local.features(jax.lax.stop_gradient(p)))
        z = local.features(params)
        near, far = cosine(z, fixed(local.received)), cosine(z, fixed(local.memory))
        return local.loss(params) + mu * jax.nn.softplus(far - near).mean()

    def message(params: Params, local: Local) -> tuple[dict, Params]:
        return change(params, local)[0], params

    def check(setting: Setting) -> None:
        if not setting.features:
            raise UserError("--algorithm moon compares features, but the model's Output has none; give it `features`")

    return Algorithm(memory=lambda params: params, loss=loss, message=message, check=check) if mu else Algorithm()


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(axis=-1, keepdims=True), 1e-12))
