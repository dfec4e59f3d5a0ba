"""Task losses, and the calibration of a client's logits by its class shares."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp
import optax

from mmfl_jax.objectives.options import Calibration

Array = jax.Array

TASKS = ("multilabel", "multiclass")


def task_loss(task: str, logits: Array, labels: Array) -> Array:
    """Return the mean loss of a batch.

    Args:
      task: ``multilabel`` (sigmoid cross-entropy, mean over classes) or ``multiclass`` (softmax cross-entropy).
      logits: ``[..., batch, classes]``, float32.
      labels: ``[batch, classes]`` of 0/1; one-hot for ``multiclass``.

    Raises:
      ValueError: for an unknown task.
    """
    labels = labels.astype(logits.dtype)
    if task == "multilabel":
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean()
    if task == "multiclass":
        return optax.softmax_cross_entropy(logits, labels).mean()
    raise ValueError(f"task {task!r} is unknown; one of {', '.join(TASKS)}")


def calibration_offsets(kind: str, task: str, counts: Array, totals: Array, strength: float) -> Array:
    """Return what is added to a client's logits in training, so that its label skew does not bend the shared head.

    Args:
      kind: ``none``; ``fedlc``: ``-strength * n_c^(-1/4)``; ``share``: ``strength * log pi_c`` of the client's class
        share; ``relative``: ``strength * log(pi_c / pi_c of the federation)``, which leaves the federation's own class
        shares in the model. For ``multilabel`` shares are log-odds of presence.
      task: ``multilabel`` or ``multiclass``.
      counts: ``[..., classes + 1]``: the client's samples of each class, then all its samples.
      totals: ``[classes + 1]``: the same over the federation.
      strength: of the calibration.

    Returns:
      ``[..., classes]``, float32.

    Raises:
      ValueError: for an unknown kind.

    References:
      Zhang et al., "Federated Learning with Label Distribution Skew via Logits Calibration", ICML 2022.
      Menon et al., "Long-tail learning via logit adjustment", ICLR 2021.
    """
    classes = counts[..., :-1].astype(jnp.float32)
    if kind == "none":
        return jnp.zeros_like(classes)
    if kind == "fedlc":
        return -strength * jnp.maximum(classes, 1.0) ** -0.25
    if kind == "share":
        return strength * _evidence(task, counts)
    if kind == "relative":
        return strength * (_evidence(task, counts) - _evidence(task, totals))
    raise ValueError(f"logit calibration {kind!r} is unknown; one of {', '.join(get_args(Calibration))}")


def _evidence(task: str, counts: Array) -> Array:
    # Half a sample more of every class keeps the logarithm of a class that the client lacks finite.
    present = counts[..., :-1].astype(jnp.float32) + 0.5
    total = counts[..., -1:].astype(jnp.float32)
    if task == "multilabel":
        return jnp.log(present) - jnp.log(total + 1 - present)
    return jnp.log(present) - jnp.log(total + 0.5 * present.shape[-1])
