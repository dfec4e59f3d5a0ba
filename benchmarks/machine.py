"""What the machine is called, for the rows of every benchmark; it needs nothing but Python."""

import pathlib
import platform


def processor() -> str:
    """Return the name of the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
