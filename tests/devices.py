"""A process of its own with several devices: their number is fixed once JAX has started."""

import os
import re
import subprocess
import sys
from pathlib import Path


def environment(count: int | None = None) -> dict[str, str]:
    """Return the environment of a process that compiles as this one does and sees ``count`` CPU devices, if given."""
    flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    flags += f" --xla_force_host_platform_device_count={count}" if count else ""
    return {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def run_on_devices(count: int, script: str, timeout: int = 500) -> str:
    """Return what a script prints that sees ``count`` CPU devices and finds the modules of this folder."""
    begin = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", begin + script]
    done = subprocess.run(command, env=environment(count), capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
