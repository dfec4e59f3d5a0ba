"""A process of its own with several devices: their number is fixed once JAX has started."""

import os
import subprocess
import sys
from pathlib import Path


def run_on_devices(count: int, script: str, timeout: int = 500, **environment: str) -> str:
    """Return what a script prints that sees ``count`` CPU devices and finds the modules of this folder."""
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count}", "JAX_PLATFORMS": "cpu"}
    begin = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    command = [sys.executable, "-c", begin + script]
    done = subprocess.run(
        command, env={**os.environ, **flags, **environment}, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()
