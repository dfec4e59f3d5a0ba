"""Calibration of a client's logits by its class shares."""

from __future__ import annotations

from typing import get_args

import jax
import jax.numpy as jnp

from mmfl_jax.objectives.options import Calibration
from mmfl_jax.tasks.task import Task

Array = jax.Array


def calibration_offsets(kind: str, task: Task, counts: Array, totals: Array, strength: float) -> Array:
    """Return what is added to a client's logits in training, so that its label skew does not bend the shared head.

    Args:
      kind: ``none``; ``fedlc``: ``-strength * n_c^(-1/4)``; ``share``: ``strength * log pi_c`` of the client's class
        share; ``relative``: ``strength * log(pi_c / pi_c of the federation)``, which leaves the federation's own class
        shares in the model. For several labels a sample, shares are log-odds of presence.
      task: says what counts are evidence of.
      counts: ``[..., classes + 1]``: how often each class occurs with the client, then of how many labels.
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
        return strength * task.evidence(counts)
    if kind == "relative":
        return strength * (task.evidence(counts) - task.evidence(totals))
    raise ValueError(f"logit calibration {kind!r} is unknown; one of {', '.join(get_args(Calibration))}")
