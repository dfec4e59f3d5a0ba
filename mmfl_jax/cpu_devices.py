"""Devices of the CPU, of which there is one unless more are asked for, and threads enough for them."""

from __future__ import annotations

import contextlib
import os
import re


def make_devices(devices: int) -> None:
    """Make this many devices of the CPU, as far as it has cores; each can train clients of its own."""
    import jax

    if 0 < devices <= (os.cpu_count() or 1):
        with contextlib.suppress(RuntimeError):  # JAX is running already: what it has is what there is
            jax.config.update("jax_num_cpu_devices", devices)


def give_threads() -> None:
    """Let XLA have two threads for each device of the CPU; of use only before JAX computes anything.

    XLA itself makes as many as there are cores, or devices where these are more. A collective waits in one thread of
    each device for the others, and so does the program after it for the collective: where threads are fewer than both
    need, some device's part of the collective finds none, and all wait for ever. More threads than cores make
    convolutions slower by two fifths, so they are for several processes, which are seldom in step.
    """
    import jax

    asked = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    devices = max(jax.config.values["jax_num_cpu_devices"], *map(int, asked), 1)
    if devices > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(os.cpu_count() or 1, 2 * devices)))
