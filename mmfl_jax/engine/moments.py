"""Exact averaging of running moments over clients.

The mean of covariances is not the covariance of the pooled data: the law of total covariance adds the spread of the
means. Clients therefore send moments about the round's common centre, which average exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

Array = jax.Array

_SPREADS = ("var", "cov")


def _mean_name(name: str) -> str | None:
    """Return the name of the mean that belongs to a variance or covariance, None for any other statistic."""
    path, _, leaf = name.rpartition("/")
    return f"{path}/mean" if leaf in _SPREADS else None


def _outer(d: Array, like: Array) -> Array:
    """Return ``d d'`` as ``like`` holds it: per channel ``[c]``, or per group ``[groups, g, g]``."""
    if like.ndim == 1:
        return d * d
    groups = d.reshape(like.shape[0], like.shape[1])
    return groups[:, :, None] * groups[:, None, :]


def about(centre: Mapping[str, Array], stats: Mapping[str, Array]) -> dict[str, Array]:
    """Return ``stats`` as moments about the means in ``centre``: ``E[x - c]`` and ``E[(x - c)(x - c)']``.

    A common centre near the data keeps float32 exact where raw ``E[xx']`` would cancel.
    """
    out = {}
    for name, value in stats.items():
        mean = _mean_name(name)
        if mean is not None:
            out[name] = value + _outer(stats[mean] - centre[mean], value)
        else:
            out[name] = value - centre[name]
    return out


def feasible(stats: Mapping[str, Array]) -> dict[str, Array]:
    """Return statistics whose variances and covariances can be some: negative eigenvalues become 0.

    Averages need none of this. A median of covariances, taken number by number, may have negative eigenvalues.
    """

    def one(name: str, value: Array) -> Array:
        if _mean_name(name) is None:
            return value
        if value.ndim == 1:
            return jnp.maximum(value, 0)
        eigenvalues, vectors = jnp.linalg.eigh(value)
        return jnp.einsum("gij,gj,gkj->gik", vectors, jnp.maximum(eigenvalues, 0), vectors, precision="highest")

    return {name: one(name, value) for name, value in stats.items()}


def pooled(centre: Mapping[str, Array], moments: Mapping[str, Array]) -> dict[str, Array]:
    """Return means and (co)variances from averaged moments about ``centre``; the inverse of :func:`about`."""
    out = {}
    for name, value in moments.items():
        mean = _mean_name(name)
        if mean is not None:
            out[name] = value - _outer(moments[mean], value)
        else:
            out[name] = value + centre[name]
    return {name: jnp.asarray(value, jnp.float32) for name, value in out.items()}
