"""Files that are there as a whole or not at all, and errors of the disk in one line."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from mmfl_jax.errors import UserError


@contextlib.contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Turn an error of the disk meanwhile into a :class:`UserError` that names ``path``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}){advice and '; '}{advice}") from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``content``, the whole of it or nothing: a kill or a full disk leaves the file as it was.

    Raises:
        UserError: where it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    with writing(path):
        try:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
