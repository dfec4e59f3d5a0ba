"""The devices of a run, and how arrays lie on them: whole everywhere, or a part on each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXIS = "clients"


def client_mesh(devices: int = 0) -> Mesh:
    """Return a mesh of one axis, "clients", over the first ``devices`` devices (0: all)."""
    found = jax.devices()
    return Mesh(np.array(found[: devices or len(found)]), (AXIS,))


def everywhere(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def by_home(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what each device holds a part of, along the first axis."""
    return NamedSharding(mesh, P(AXIS))


def own_devices(mesh: Mesh) -> np.ndarray:
    """Return ``[devices]``: whether a device is of this process."""
    return np.array([device.process_index == jax.process_index() for device in mesh.devices.flat])


def put_everywhere(mesh: Mesh, tree: Any) -> Any:
    """Return a tree of arrays, the same on all hosts, whole on every device."""
    sharding = everywhere(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree)


def run_key(mesh: Mesh, seed: int) -> jax.Array:
    """Return the key of a run, on every device."""
    return jax.jit(jax.random.key, out_shardings=everywhere(mesh), static_argnums=0)(seed)


def put_parts(mesh: Mesh, part: Callable[[int], Any]) -> Any:
    """Return arrays ``[devices * n, ...]`` of which device number ``i`` holds ``part(i)``, ``[n, ...]``.

    Only parts of this process's devices are asked for, one after the other.

    Args:
      mesh: the devices.
      part: gives a tree of arrays, of one structure and one shape for all devices.
    """
    devices = list(mesh.devices.flat)
    placed = [jax.device_put(part(i), devices[i]) for i in np.flatnonzero(own_devices(mesh)).tolist()]
    sharding = by_home(mesh)

    def whole(*parts: jax.Array) -> jax.Array:
        shape = (len(devices) * parts[0].shape[0], *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

    return jax.tree.map(whole, *placed)


def whole(array: jax.Array) -> np.ndarray:
    """Return an array in host memory, of all hosts together; all must ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
