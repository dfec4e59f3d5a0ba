"""The state that goes from round to round."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmfl_jax.models.variables import Variables

Array = jax.Array
# What a client keeps: {"variables": private ones by name, "memory": the algorithm's, "transform": the transforms'}.
Kept = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ServerState:
    """Hold everything a round starts from: a pytree that is donated, checkpointed and resumed.

    Attributes:
      params: global parameters by name, float32; private ones keep their initial values here.
      stats: global running moments by name.
      algorithm: the algorithm's state on the server.
      objectives: what the server keeps for each objective, by its name.
      clients: what every client keeps, a group an entry: :data:`Kept`, leaves ``[rows, ...]``, device after
        device (:class:`mmfl_jax.federation.placement.Homes`): of one device in the order of clients.
      round: int32, rounds done.
      frozen: what the model is given, by name: the same for all clients, in no checkpoint and no digest.
    """

    params: Variables
    stats: Variables
    algorithm: Any
    objectives: dict[str, Any]
    clients: tuple[Kept, ...]
    round: Array
    frozen: Variables = dataclasses.field(default_factory=dict)


def digest(params: Variables) -> str:
    """Return the SHA-256 of the parameters: names, shapes and bytes, in the order of names."""
    sha = hashlib.sha256()
    for name in sorted(params):
        value = np.asarray(jax.device_get(params[name]))
        sha.update(f"{name} {value.dtype} {value.shape}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def zeros_like(tree: Any, dtype: Any = jnp.float32) -> Any:
    """Return zeros of the shapes of ``tree``."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, dtype), tree)
