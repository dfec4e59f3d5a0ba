"""What this machine's memory can hold, asked before anything large is allocated."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmfl_jax.errors import UserError

UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

_unlimited = contextvars.ContextVar("unlimited", default=False)


@contextlib.contextmanager
def unlimited() -> Iterator[None]:
    """Let everything fit within this context: what is planned for another machine is not made on this one."""
    token = _unlimited.set(True)
    try:
        yield
    finally:
        _unlimited.reset(token)


def check_fits(what: str, needed_bytes: int) -> None:
    """Refuse what this machine's memory cannot hold.

    Args:
      what: begins the line: the file, field or option, and what it asks for.
      needed_bytes: what will be allocated, at least.

    Raises:
      UserError: names both sizes.
    """
    if _unlimited.get():
        return
    available = available_bytes()
    if needed_bytes > available:
        raise UserError(f"{what}: {readable(needed_bytes)} of memory needed, this machine has {readable(available)}")


def tree_bytes(tree: Any) -> int:
    """Return the bytes of a tree of arrays, or of shapes with types."""
    import jax

    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def available_bytes() -> int:
    """Return how much memory this process may use: what the machine has, or less where a limit is set on it.

    What other programs hold at the moment does not count, so that the same input gets the same answer.
    """
    try:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, ValueError, OSError):  # a system that does not say
        limits = [sys.maxsize]
    return min(limit for limit in (*limits, *_group_limits(), *_process_limit()) if limit > 0)


def readable(size: int) -> str:
    """Return a number of bytes in the largest unit that leaves at least one."""
    power = min(max(size.bit_length() - 1, 0) // 10, len(UNITS) - 1)
    number = size / 1024**power if size < 2**1000 else float("inf")
    digits = 0 if power == 0 or number >= 100 else 1
    return f"{number:,.{digits}f} {UNITS[power]}" if number < 1e6 else f"{number:.1e} {UNITS[power]}"


def _group_limits() -> Iterator[int]:
    """Yield the limits of the control groups (containers, batch systems) that this process is in."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers == "":
            base, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A group's limit holds for those below it; in a container only the top may be seen.
        below = Path(group.lstrip("/"))
        for folder in (below, *below.parents):
            try:
                yield int((base / folder / name).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue


def _process_limit() -> Iterator[int]:
    try:
        import resource
    except ModuleNotFoundError:
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        yield limit
