"""The devices of a run, and how arrays lie on them: whole everywhere, or a part on each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmfl_jax.memory import available_bytes

#: The mesh's axes: homes of clients, and the devices of a home, which share its clients' samples and batches.
AXIS, SPAN = "clients", "samples"


def client_mesh(devices: int = 0, span: int = 1, found: Sequence[jax.Device] = ()) -> Mesh:
    """Return the mesh of the first ``devices`` devices (0: all), ``span`` of them a home; ``[homes, span]``.

    Args:
      devices: how many.
      span: of a home.
      found: to choose from; none for all that JAX has.
    """
    found = found or jax.devices()
    return Mesh(np.array(found[: devices or len(found)]).reshape(-1, span), (AXIS, SPAN))


def platform_of(mesh: Mesh) -> str:
    """Return the platform of the devices."""
    return mesh.devices.flat[0].platform


def device_bytes(mesh: Mesh) -> int:
    """Return the memory of a device; of CPU devices, its share of what this process may use."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    told = own[0].memory_stats() or {}
    return int(told.get("bytes_limit", 0)) or available_bytes() // len(own)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def by_home(mesh: Mesh) -> NamedSharding:
    """Return the sharding of what each home has a part of, along the first axis; all devices of a home have it."""
    return NamedSharding(mesh, P(AXIS))


def own_homes(mesh: Mesh) -> np.ndarray:
    """Return ``[homes]``: whether this process is the one that speaks for a home: its first device is there."""
    return np.array([device.process_index == jax.process_index() for device in mesh.devices[:, 0]])


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
    """Return arrays ``[homes * n, ...]`` of which the devices of home ``i`` hold ``part(i)``, ``[n, ...]``, each.

    Only parts of this process's devices are asked for, one after the other.

    Args:
      mesh: the devices.
      part: gives a tree of arrays, of one structure and one shape for all homes.
    """
    once = functools.lru_cache(1)(part)  # the devices of a home come one after the other
    return _put(mesh, by_home(mesh), lambda home, _: once(home))


def put_shares(mesh: Mesh, share: Callable[[int, int], Any]) -> Any:
    """Return arrays ``[homes * span * n, ...]`` of which device ``j`` of home ``i`` holds ``share(i, j)``.

    Args:
      mesh: the devices.
      share: gives a tree of arrays, of one structure and one shape for all devices.
    """
    return _put(mesh, NamedSharding(mesh, P((AXIS, SPAN))), share)


def _put(mesh: Mesh, sharding: NamedSharding, share: Callable[[int, int], Any]) -> Any:
    homes, span = mesh.devices.shape
    pieces = homes if sharding.spec == P(AXIS) else homes * span
    own = [at for at, device in np.ndenumerate(mesh.devices) if device.process_index == jax.process_index()]
    placed = [jax.device_put(share(*at), mesh.devices[at]) for at in own]

    def joined(*parts: jax.Array) -> jax.Array:
        shape = (pieces * parts[0].shape[0], *parts[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, list(parts))

    return jax.tree.map(joined, *placed)


def whole(array: jax.Array) -> np.ndarray:
    """Return an array in host memory, of all hosts together; all must ask for it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
