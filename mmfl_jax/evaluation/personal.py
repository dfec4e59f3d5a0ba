"""Personal accuracy: how well each client's own model does on the classes that the client has.

A client's test samples are the federation's, weighted by its own share of each class: the sum over classes of share
times accuracy. No training sample is used, and a client of ten samples is scored as finely as one of thousands.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.models import Template, Variables

Array = jax.Array

# Clients scored side by side.
_CHUNK = 8


@functools.partial(jax.jit, static_argnums=(0, 5))
def class_hits(
    template: Template,
    variables: tuple[Variables, Variables, Variables],
    private: Variables,
    images: dict[str, Array],
    labels: Array,
    classes: int,
) -> Array:
    """Return how many samples of each class each client's model gets right, ``[clients, classes]`` float32.

    Args:
      template: of a client's model.
      variables: parameters, statistics and frozen values of the server.
      private: what each client has of its own, ``[clients, ...]`` by name; empty scores the server's model, one row.
      images: ``[samples, features]`` of the one modality, all scored at once.
      labels: ``[samples]`` integers.
      classes: how many.
    """
    params, stats, frozen = variables

    def hits(own: Variables) -> Array:
        model = template.module({**params, **own}, {**stats, **own}, frozen)
        right = model(images, train=False).logits.argmax(axis=-1) == labels
        return jax.ops.segment_sum(right.astype(jnp.float32), labels, classes)

    if not private:
        return hits({})[None]
    clients = len(next(iter(private.values())))
    return jax.lax.map(hits, private, batch_size=min(_CHUNK, clients))


def personal_accuracy(hits: np.ndarray, tested: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the accuracy of each client, ``[clients]`` float64; NaN where no class of the client is tested.

    Args:
      hits: ``[clients, classes]``, or ``[1, classes]`` of one model for all.
      tested: ``[classes]`` test samples; classes without any are left out of the shares.
      counts: ``[clients, classes]`` training samples of each client.
    """
    counts = np.where(tested > 0, counts, 0).astype(np.float64)
    total = counts.sum(axis=1)
    right = (counts * hits / np.maximum(tested, 1)).sum(axis=1)
    return np.divide(right, total, out=np.full(len(counts), np.nan), where=total > 0)


def summarize(accuracy: np.ndarray) -> dict[str, Any]:
    """Return ``clients`` (how many were scored), ``mean``, ``worst``, ``p10`` (10th percentile) and ``std``."""
    scored = accuracy[~np.isnan(accuracy)]
    if not len(scored):
        return {"clients": 0, "mean": None, "worst": None, "p10": None, "std": None}
    values = {"mean": scored.mean(), "worst": scored.min(), "p10": np.percentile(scored, 10), "std": scored.std()}
    return {"clients": len(scored), **{name: float(value) for name, value in values.items()}}
