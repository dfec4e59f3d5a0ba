"""The batch of a layer may be spread over an axis of devices: layers that look at all of it ask for the axis."""

from __future__ import annotations

from typing import Any

import jax

# Part of jit's cache key.
_axis = jax.make_user_context(default_value=None)


def batch_axis(name: str | None) -> Any:
    """Trace, within this context, for a batch that is spread over an axis of devices; None for none."""
    return _axis(name)


def batch_is_spread() -> bool:
    """Return whether the batch that is traced for is spread over an axis of devices."""
    return _axis.value is not None


def mean_over_batch(x: jax.Array) -> jax.Array:
    """Return the mean of ``x``, a mean over this device's share of the batch, over all shares of equal size."""
    return x if _axis.value is None else jax.lax.pmean(x, _axis.value)
