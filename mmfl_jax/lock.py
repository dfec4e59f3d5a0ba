"""One process at a time in a directory: a lock of the operating system, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

from mmfl_jax.errors import UserError
from mmfl_jax.files import writing

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

#: The file that is locked; it says who holds the lock, and a kill leaves it behind, unlocked.
LOCK = "lock"


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Make a directory if need be, and keep every other process from writing into it meanwhile.

    Raises:
        UserError: where another process does, or nothing can be written.
    """
    path = directory / LOCK
    with writing(path):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _held(path)
    try:
        with writing(path):
            os.ftruncate(descriptor, 0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {since}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def check_free(directory: Path) -> None:
    """Raise UserError when a process holds the lock of a directory."""
    path = directory / LOCK
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            _take(descriptor, path)
        finally:
            os.close(descriptor)


def _held(path: Path) -> int:
    """Return the descriptor of a file that this process has locked."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(descriptor, path)
            # The one before may have removed the file between opening and locking it.
            if path.exists() and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
        raise UserError(f"{path.parent} is in use by {holder}; wait for it, or name another directory") from None
    except OSError:  # a file system without locks
        return
